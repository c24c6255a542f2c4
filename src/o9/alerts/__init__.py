"""Telling people: alerts, rules and channels."""
