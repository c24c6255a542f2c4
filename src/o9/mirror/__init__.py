"""Prefect's states into ours: each ingested once, in Prefect's own order."""
