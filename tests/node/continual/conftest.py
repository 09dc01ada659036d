"""Models that many tests merge; and streams say nothing while they are tested."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.node.continual.streams import in_memory, save_models


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Formatting what nobody reads takes as long as a small merge."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def models() -> Iterator[Path]:
    """A base and ten that were tuned from it: `base`, `c1` to `c10`. Not to be changed."""
    with in_memory("stream-models") as folder:
        save_models(folder, 10)
        yield folder


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder in memory, of one test."""
    with in_memory("stream") as folder:
        yield folder
