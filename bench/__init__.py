"""Benchmarks with a figure each; `python -m bench` (make bench) runs them all. docs/benchmarks.md explains them."""
