"""What is optimized when nobody brings an objective of their own: demonstrations, and backtests on real prices."""
