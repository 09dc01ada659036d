"""Weft merges models continually across nodes that never share data."""

__version__ = "0.1.0"
