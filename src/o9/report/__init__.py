"""One optimization, some of them or all as one HTML file that needs no network: the verdict in words, then plots."""
