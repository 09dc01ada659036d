"""Where virtual nodes live and train: here, stacked, over ranks, or not at all.

A study's nodes are rows of a matrix (`fleet`). A *crew* trains and measures them
(`crew`), an *exchange* lets each take a weighted mean of others (`exchange`); the
engines are pairs of the two. What they exchange, and what they make of it, is
`weft.simulations.learning`'s.
"""
