"""Counts, trends, rankings and frames of all optimizations."""
