"""Studies: tasks with real data, what they are compared with, and reports.

Nothing here is needed by a daemon. `simulations.tasks` holds data and the
trainers that learn from it, `simulations.references` what a merged model is
measured against, `simulations.demo` the report of `weft demo`.
"""
