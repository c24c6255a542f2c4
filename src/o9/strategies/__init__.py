"""What to try next, and its evaluation: strategies, samplers, the registry of objectives."""
