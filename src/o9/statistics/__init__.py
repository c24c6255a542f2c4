"""Counts, trends and rankings over all optimizations."""
