"""The benchmarks that measure the figures of the README and the documentation."""
