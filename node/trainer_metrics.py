"""What the user's code returned as metrics, checked."""

import logging
import math
from collections.abc import Mapping
from numbers import Real

import numpy as np
from torch import Tensor

from weft.errors import TrainingFailed
from weft.node.errors import NotFinite
from weft.node.trainer import Metrics

log = logging.getLogger(__name__)


def metrics_of(returned: object, name: str, method: str, when: str) -> Metrics:
    """What a trainer returned, as finite floats; other metrics than a loss may be infinite.

    Args:
        returned: a mapping of names to numbers, or None.
        name: of the trainer.
        method: which returned it.
        when: the round, or what was measured; for messages.

    Raises:
        TrainingFailed: no mapping, or a value that is no number.
        NotFinite: a loss that is none.
    """
    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        kind = type(returned).__name__
        raise TrainingFailed(
            f"{when}: {name}.{method} returned a {kind}; "
            'expected a mapping of names to numbers, such as {"loss": 0.3}'
        )
    metrics: dict[str, float] = {}
    for key, value in returned.items():
        number = _number(value)
        if number is None:
            raise TrainingFailed(
                f"{when}: {name}.{method} returned {key!r}: {type(value).__name__}; "
                "expected a number"
            )
        if math.isfinite(number):
            metrics[str(key)] = number
        elif "loss" in str(key).lower():
            raise NotFinite(f"{when}: {name}.{method} returned {key} = {number}; nothing is kept")
        else:
            log.warning("%s: metric %s is %s and left out", when, key, number)
    return metrics


def _number(value: object) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value.item())
    return float(value) if isinstance(value, Real | np.generic) else None
