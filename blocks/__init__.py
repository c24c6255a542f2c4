"""Prefect blocks: where the store is, and whom to alert."""
