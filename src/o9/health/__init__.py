"""Whether a result can be trusted: validity, completeness, security, performance."""
