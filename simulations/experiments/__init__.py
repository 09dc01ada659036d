"""Experiments: a TOML file, its cells, their rows, and what is made of them.

`settings` says what a file may hold, `sweeps` and `reading` make cells of it, `build` a
study of a cell, `runner` runs the cells, `tables`, `plots` and `report` show what came out.
"""
