"""Prefect blocks: where the store is, where alerts go. Prefect imports this as a collection, so they are named here."""

from o9.blocks.alert_channel import AlertChannel
from o9.blocks.store import AggregatorStore

__all__ = ["AggregatorStore", "AlertChannel"]
