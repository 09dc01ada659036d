"""The node daemon: trains, exchanges, merges, and goes on where it was.

Knows nothing of how the coordinator decides; it follows a plan and asks peers.
Start with `weft.node.rounds`, the whole life of a node on one page, then
`weft.node.life`, which performs it, and `weft.node.daemon`, which wires it.
"""
