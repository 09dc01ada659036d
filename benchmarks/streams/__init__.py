"""Parts of `benchmarks/continual_stream.py`: streams of tasks, experts, merges, scores."""
