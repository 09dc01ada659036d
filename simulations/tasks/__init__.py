"""Tasks: data, how nodes share it out, and a trainer that learns from a share.

Start with `weft.simulations.tasks.classification`.
"""
