"""Progress, effect and problems of what runs."""
