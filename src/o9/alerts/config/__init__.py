"""The alerts' configuration: the file's schema, and the built-in rules."""
