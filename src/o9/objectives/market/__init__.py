"""Strategies on real prices: backtests whose in-sample value is optimized and whose hold-out is only reported."""
