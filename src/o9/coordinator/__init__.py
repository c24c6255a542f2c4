"""Submission, strategies and policies: what waits, what runs, and how many at once."""
