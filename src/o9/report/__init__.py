"""Reports on one, several or all optimizations, each as one HTML file that needs no network."""
