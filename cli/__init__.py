"""The `weft` command: parse, call, print.

Nothing is decided here: every command reads its arguments, calls the package
that does the work, and prints what comes back. Start with `weft.cli.app`, the
table of commands; `weft.cli.exits` says which error ends with which code.
"""
