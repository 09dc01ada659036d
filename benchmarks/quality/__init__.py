"""Parts of `benchmarks/merge_quality.py`: real fine-tuned models, merged and scored."""
