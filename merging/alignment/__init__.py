"""Units of two networks brought into one order, before their weights are averaged.

`axes` says which axes of which tensors hold the same units, `calls` and the rules what an
operator does to axes, `groups` what of a traced model can be permuted together,
`permutations` applies that, `weights` and `activations` find the permutations. `scales` does
the same for scales that change nothing, `transport` mixes units instead of ordering them,
`pleas` keeps apart what does not match.
"""
