"""The merges that are compared."""

from collections.abc import Sequence

from streams.merge import Row

BEST = "WUDI smaller side"
"""What the others are compared with."""
DEFAULT = Row("WUDI ridge", "wudi", {"filter": "ridge", "side": "smaller", "time": 300.0})
"""What `weft stream` does unless told otherwise."""


def rows() -> Sequence[Row]:
    """All of them.

    Options and scales are those that `--choose` finds best on the tasks outside the
    text stream, with all of them merged; rows that say what they hold as they are by
    default, or by the paper, stand beside them.
    """
    return (
        Row("SWA", "mean"),
        Row("continual TA", "task_arithmetic", {"scale": 1.0}, 0.75),
        Row("continual TA, 0.5", "task_arithmetic", {"scale": 1.0}, 0.5),
        Row("continual TA, 0.3", "task_arithmetic", {"scale": 1.0}, 0.3),
        Row("continual TIES", "continual_ties", {"scale": 0.5}, 1.0, ordered=True),
        Row("TIES", "ties", {}, 2.0),
        Row("MagMax", "magmax", {"scale": 1.0}, 1.5),
        Row("EMA", "ema", {"rate": 0.3}, ordered=True),
        Row("OPCM", "opcm", {"projection": "block"}, 2.0, ordered=True),
        Row("OPCM, 1.5", "opcm", {"projection": "block"}, 1.5, ordered=True),
        Row("OPCM, own norm", "opcm", {"projection": "block"}, ordered=True),
        Row("OPCM released", "opcm", {"projection": "released"}, 2.0, ordered=True),
        Row("OPCM released, own norm", "opcm", {"projection": "released"}, ordered=True),
        Row("OPCM rows, columns", "opcm", {"projection": "rows_and_columns"}, 2.0, ordered=True),
        Row("OPCM rows, columns, own", "opcm", {"projection": "rows_and_columns"}, ordered=True),
        Row("NUFILT", "nufilt", {"rank": 64}, 1.25, ordered=True),
        Row("NUFILT, rank 128", "nufilt", {"rank": 128}, 1.0, ordered=True),
        Row("Iso-C", "iso_c", {}, 2.0),
        Row("Iso-C, 1", "iso_c", {}, 1.0),
        Row("WUDI inputs", "wudi", {"time": 30.0}, 1.0),
        Row("WUDI inputs, 0.5", "wudi", {"time": 30.0}, 0.5),
        Row("WUDI smaller side", "wudi", {"side": "smaller", "time": 300.0}),
        Row("WUDI smaller side, t 30", "wudi", {"side": "smaller", "time": 30.0}),
        Row("WUDI smaller side, 0.5", "wudi", {"side": "smaller", "time": 300.0}, 0.5),
        DEFAULT,
    )
