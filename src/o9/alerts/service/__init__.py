"""Alerts on a node: the record, the leader and the delivery."""
