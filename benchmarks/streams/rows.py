"""The merges that are compared."""

from collections.abc import Sequence

from streams.merge import Row

BEST = "WUDI t 30"
"""What the others are compared with."""


def rows() -> Sequence[Row]:
    """All of them."""
    return (
        Row("SWA", "mean"),
        Row("continual TA 0.3", "task_arithmetic", {"scale": 0.3}),
        Row("continual TIES", "continual_ties", {}, ordered=True),
        Row("TIES 20 %, mean", "ties"),
        Row("MagMax 0.5", "magmax"),
        Row("EMA 0.1", "ema", {"rate": 0.1}, ordered=True),
        Row("OPCM block", "opcm", {"projection": "block"}, ordered=True),
        Row("OPCM released", "opcm", {"projection": "released"}, ordered=True),
        Row("OPCM rows and columns", "opcm", {"projection": "rows_and_columns"}, ordered=True),
        Row("NUFILT", "nufilt", {}, ordered=True),
        Row("NUFILT, adapter", "nufilt", {"adapter": 64}, ordered=True),
        Row("Iso-C 1", "iso_c"),
        Row("Iso-C 0.5", "iso_c", {"scale": 0.5}),
        Row("WUDI t 300", "wudi", {"time": 300.0}),
        Row("WUDI t 30", "wudi", {"time": 30.0}),
        Row("WUDI t 30, 0.5", "wudi", {"time": 30.0, "scale": 0.5}),
    )
