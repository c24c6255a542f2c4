"""Prefect blocks: where the store is. Prefect imports this as a collection, so the blocks are named here."""

from o9.blocks.store import AggregatorStore

__all__ = ["AggregatorStore"]
