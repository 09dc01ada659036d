"""CHOCO: gossip where nothing is lost, the mean kept and found where much is."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tests.simulations.learning.quadratics import error, models, moments, quadratics, ring, run
from weft.simulations.engines.exchange import Here
from weft.simulations.learning.choco import Choco
from weft.simulations.learning.compression import Compressor, TopK, compressor
from weft.simulations.learning.rule import Gossip


@dataclass
class Overheard(Choco):
    """Keeps what a neighbour would be sent."""

    heard: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._compressor = _Listener(self._compressor, self.heard)


@dataclass
class _Listener:
    inner: Compressor
    heard: list[Tensor]

    def kept(self, vector: Tensor) -> Tensor:
        self.heard.append(found := self.inner.kept(vector))
        return found

    def message_bytes(self, size: int) -> float:
        return self.inner.message_bytes(size)


@pytest.mark.parametrize("codec", ["raw", "lossless"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_without_loss_and_damping_it_is_gossip(
    codec: str, dtype: torch.dtype, close: float
) -> None:
    whole = models(Choco(codec=codec, gamma=1.0), quadratics(steps=2, dtype=dtype), ring())
    assert error(whole, models(Gossip(), quadratics(steps=2, dtype=dtype), ring())) < close


def test_without_loss_it_does_not_matter_where_the_copies_start() -> None:
    crew, rule, gossip = quadratics(apart=True), Choco(codec="raw", gamma=1.0), Gossip()
    rows, mixing = crew.fleet.parameters, ring().mixing(0)
    plain = rows.clone()
    rule.begin(rows)
    rule.copies.zero_()
    rule.communicate(rows, mixing, Here())
    gossip.communicate(plain, mixing, Here())
    assert error(rows, plain) < 1e-12


@pytest.mark.parametrize(
    ("rule", "rounds", "close"),
    [
        (Choco(codec="int8", gamma=0.9), 100, 1e-6),
        (Choco(codec="top_k", gamma=0.3, density=0.2), 500, 1e-12),
    ],
)
def test_what_is_lost_is_sent_later(rule: Choco, rounds: int, close: float) -> None:
    crew = quadratics(8, 20, lr=0.0, apart=True)
    mean = crew.fleet.parameters.mean(0)
    drifts = [m.drift for m in moments(rule, crew, ring(rounds=rounds), evaluated=False)]
    assert error(crew.fleet.parameters, mean) < close
    assert max(drifts) < 1e-12


def test_the_copy_at_every_holder_is_that_of_the_messages() -> None:
    crew, rule = quadratics(steps=2, apart=True), Overheard(codec="top_k", density=0.4)
    held = crew.fleet.parameters.clone()
    models(rule, crew, ring(rounds=20))
    for place, message in enumerate(rule.heard):
        held[place % 8] += message
    assert torch.equal(held, rule.copies)
    assert len(rule.heard) == 20 * 8


@pytest.mark.parametrize(
    ("rule", "message_bytes"),
    [
        (Choco(codec="raw"), 4 * 300),
        (Choco(codec="int8"), 300 + 4 * 3),
        (Choco(codec="top_k", density=0.1), 8 * 30),
        (Choco(codec="top_k", density=0.001), 8 * 1),
    ],
)
def test_bytes_are_those_of_the_codec(rule: Choco, message_bytes: int) -> None:
    moment = run(rule, quadratics(8, 300), ring(rounds=1))[0]
    assert moment.messages == 16
    assert moment.bytes == 16 * message_bytes


def test_top_k_by_hand() -> None:
    kept = TopK(0.4).kept(torch.tensor([1.0, -3.0, 0.5, 2.0, 0.0]))
    assert kept.tolist() == [0.0, -3.0, 0.0, 2.0, 0.0]


def test_int8_is_the_wire_s() -> None:
    vector = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    kept = compressor("int8", 1.0).kept(vector)
    assert kept.dtype is torch.float32
    assert 0 < (kept - vector).abs().max() <= vector.abs().max() / 254
