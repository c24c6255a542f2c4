"""The façade: builds the parts, runs the loops, starts the flows."""
