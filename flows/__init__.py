"""Prefect flows: one optimization's life, and the scheduled ones."""
