"""`weft demo`, all but its screen: settings, folder, processes, outcome, report.

A real coordinator and real nodes, as processes of this machine, over mutual TLS.
Start with `weft.simulations.demo.stage`.
"""
