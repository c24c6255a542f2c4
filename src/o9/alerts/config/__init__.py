"""The alerts' configuration: its file, what it means, and the built-in rules."""
