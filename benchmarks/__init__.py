"""The figures that the README quotes: `python -m benchmarks`, or `make bench`."""
