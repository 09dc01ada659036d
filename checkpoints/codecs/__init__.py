"""How a delta becomes bytes and tensors again, in a stream and within bounds.

`codec.py` is the contract, `registry.py` the table of names. A codec never trusts
a length that it reads: what it allocates follows from the schema alone.
"""
