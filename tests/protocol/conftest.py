"""What the tests of the wire share: an authority, its members, their stores."""

from pathlib import Path

import pytest

from tests.support.wire import Enrolment
from weft.checkpoints.store import Store


@pytest.fixture
def enrol(tmp_path: Path) -> Enrolment:
    """Credentials by name, of one federation."""
    return Enrolment(tmp_path / "federation")


@pytest.fixture
def held(tmp_path: Path) -> Store:
    """The store of who holds artifacts."""
    return Store(tmp_path / "held")


@pytest.fixture
def fetched(tmp_path: Path) -> Store:
    """The store of who fetches them."""
    return Store(tmp_path / "fetched")
