"""Topology: who talks to whom, when, and with which weights, as pure functions.

Graphs, mixing matrices, their spectra, schedules, and the shares of a global merge;
no disk, no clock, no network, and no chance but counters keyed by (seed, round), so
that every machine computes every round alike. Start with `schedules.py`: a
`Schedule` gives the mixing matrix of any round; `families.py` is the table of graphs.
"""
