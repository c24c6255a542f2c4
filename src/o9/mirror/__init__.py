"""Prefect's states into ours: each taken once, in Prefect's own order."""
