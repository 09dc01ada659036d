"""Checkpoints: files read and written as streams, and the store of artifacts.

Reading is strict, writing is durable, and memory stays flat whatever the size of
a model. Nothing here knows peers, rounds or methods. Start with `schema.py` (what
a model is made of), then `reader.py`, `writer.py`, and `store.py` for artifacts
known by their digest; `artifacts.py` joins tensors and store.
"""
