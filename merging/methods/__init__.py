"""One file a method; `weft.merging.registry` knows them by name."""
