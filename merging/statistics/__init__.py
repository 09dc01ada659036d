"""Small tensors gathered from a model's activations, folded over nodes."""
