"""What no test may leave behind for the next one in its process."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Commands that are called in this process set logging up, for as long as it lives."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
