"""Nodes on one store: who is alive and how far each has read."""
