"""What the benchmarks of merging share: files to merge, other tools, measured processes."""
