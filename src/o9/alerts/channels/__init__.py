"""Channels, through which messages are sent. `o9.alerts.channels.registry` makes them from what users register."""
