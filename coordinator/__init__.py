"""The coordinator: who is in a run, what its plan says, and what is kept of both.

Not on the path of any tensor, and away without harm: nodes go on by the plan that they
hold. Start with `membership.py`, the whole life of a run as a pure function of events;
`runs.py` makes it durable, `service.py` answers, `daemon.py` puts it together.
"""
