"""Units of two networks brought into one order, before their weights are averaged.

`axes` says which axes of which tensors hold the same units, `operators` what an operator
does to axes, `groups` what of a traced model can be permuted together, `permutations`
applies that, `matching` finds the permutations.
"""
