"""Alerts: rules, routing, messages and channels."""
