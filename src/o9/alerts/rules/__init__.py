"""Alert rules: figures, conditions, and their evaluation over all that O9 knows."""
