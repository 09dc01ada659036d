"""What the alignment benchmarks share."""
