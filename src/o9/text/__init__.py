"""Formatting of values, and escaping of text, the same on every surface: terminal, report, message, error."""
