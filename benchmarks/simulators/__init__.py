"""One study by weft's local engine and by others, each a script of its own."""
