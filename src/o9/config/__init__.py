"""YAML files that people write: their values, lines and faults."""
