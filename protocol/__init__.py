"""The wire: mutual TLS, channels and servers, verified transfer, what a run is.

Knows bytes and peers, not rounds: who trains and merges is in `weft.node`, who
decides is in `weft.coordinator`. Start with `weft.protocol.run`, the words that
both share, then `weft.protocol.fetch`.
"""
