"""Prefect blocks: where the store is, and where alerts go. Prefect imports this collection, so it names them."""

from o9.blocks.alert_channel import AlertChannel
from o9.blocks.store import AggregatorStore

__all__ = ["AggregatorStore", "AlertChannel"]
