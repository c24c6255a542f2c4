"""What to try next, and who evaluates it: search spaces, strategies, objectives and their child processes."""
