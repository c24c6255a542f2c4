"""How values and other people's text read, the same on every surface: terminal, report, message, error."""
