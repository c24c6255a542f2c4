"""From a notice to what people read."""
