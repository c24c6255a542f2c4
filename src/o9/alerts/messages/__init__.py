"""Messages: what people read about a notice."""
