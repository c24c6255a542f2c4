"""Files that people write in YAML: their values, lines and faults."""
