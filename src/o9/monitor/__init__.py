"""Progress, effect and problems of running optimizations."""
