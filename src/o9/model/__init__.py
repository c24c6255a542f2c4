"""The words of O9: statuses, data classes, errors and settings. Imports nothing else of O9."""
