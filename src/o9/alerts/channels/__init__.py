"""Where messages go. `o9.alerts.channels.registry` makes channels of what users give."""
