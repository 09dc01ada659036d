"""Tensors in, tensors out: how models are merged.

Here are the merge methods, the exact sums that they fold into, and the folding of
statistics; no files, sockets, clocks or randomness of its own. Start with
`methods/mean.py`, the shortest method, then `method.py`, the contracts. Methods are
reached by name through `registry.py`, which loads torch only when one is asked for.
"""
