"""Prefect tasks: the steps that flows are made of."""
