"""From alerts to notices: grouping, routing, silences, inhibition. Pure."""
