"""From alerts to notices: routing, grouping, silences, inhibition. Pure."""
