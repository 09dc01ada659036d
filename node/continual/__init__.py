"""The continual merge: checkpoints stream in, one model is always there."""
