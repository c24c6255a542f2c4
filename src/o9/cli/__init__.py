"""The command `o9`."""
