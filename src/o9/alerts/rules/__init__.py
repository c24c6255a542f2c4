"""Alert rules: figures, conditions, and their evaluation over the record."""
