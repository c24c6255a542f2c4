"""Records Prefect's states as O9's: each once, in Prefect's order."""
