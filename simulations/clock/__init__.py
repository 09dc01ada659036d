"""Virtual time: how long a run would take, on machines and links that need not exist here.

The nodes live by the daemon's own state machines; only what takes time is imagined:
training, merging, messages, transfers. Nothing is trained and no byte moves, so a model
may be of any size.

    from weft.simulations.clock.forecasts import forecast
"""
