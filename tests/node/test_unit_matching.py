"""Checkpoints brought into the order of another one's units, from files to files."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weft.merging.errors import CannotAlign
from weft.node.errors import BadBatch
from weft.node.trainer import Batch
from weft.node.training_messages import AlignRequest
from weft.node.unit_matching import Matcher, of_one_shape
from weft.protocol.run import Align

HOW: tuple[Align, ...] = ("activations", "weights")
WIDTH = 24


class Named(nn.Module):
    """Called by name; its two ends are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor, scale: Tensor) -> Tensor:
        found = self.norm(self.embedding(words))
        found = found + self.outer(torch.relu(self.inner(found))) * scale[:, None, None]
        return self.head(found)  # type: ignore[no-any-return]


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, 8, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 3),
    )  # fmt: skip
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    for name in ("weight", "bias", "running_mean", "running_var"):
        nn.init.uniform_(getattr(norm, name), 0.5, 1.5)
    return model


def images(*sizes: int) -> Iterator[Batch]:
    torch.manual_seed(1)
    for size in sizes:
        yield torch.randn(size, 2, 6, 6), torch.zeros(size)


def sentences(*sizes: int) -> Iterator[Batch]:
    torch.manual_seed(1)
    for size in sizes:
        yield {"words": torch.randint(12, (size, 5)), "scale": 1 + torch.rand(size)}


def shuffled(tensors: dict[str, Tensor], order: Tensor) -> dict[str, Tensor]:
    """The same convolutional network with the channels of its first layer in another order."""
    moved = {
        name: tensor[order] if name.startswith(("0.", "1.")) and tensor.dim() else tensor
        for name, tensor in tensors.items()
    }
    return moved | {"3.weight": tensors["3.weight"][:, order].contiguous()}


def request(folder: Path, how: Align, *models: str) -> AlignRequest:
    return AlignRequest(
        how=how,
        anchor=folder / "anchor",
        models=tuple(folder / name for name in models),
        out=tuple(folder / f"{name}.out" for name in models),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An anchor, and the same network with units in other places."""
    tensors = dict(convolutional().state_dict())
    save_file(tensors, tmp_path / "anchor")
    save_file(tensors, tmp_path / "copy")
    order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(2))
    save_file(shuffled(tensors, order), tmp_path / "other", {"who": "them"})
    return tmp_path


@pytest.mark.parametrize("how", HOW)
def test_what_was_shuffled_is_put_back(folder: Path, how: Align) -> None:
    matcher = Matcher(convolutional(), next(images(16)))
    moved = matcher.align(request(folder, how, "other", "copy"), images(16, 16, 5))
    order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(2))
    units = WIDTH + 8
    assert matcher.facts().units == units
    assert moved == [int((order != torch.arange(WIDTH)).sum()) / units, 0]
    anchor = load_file(folder / "anchor")
    for name in ("other", "copy"):
        found = load_file(folder / f"{name}.out")
        assert all(torch.equal(found[key], anchor[key]) for key in anchor)
    with safe_open(folder / "other.out", "pt") as kept:
        assert kept.metadata() == {"who": "them"}


def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    """Two networks that have nothing to do with each other: a hard assignment."""
    torch.manual_seed(9)
    tensors = {k: torch.rand_like(v) for k, v in load_file(folder / "anchor").items() if v.dim()}
    save_file({**load_file(folder / "anchor"), **tensors}, folder / "stranger")
    found = []
    for _ in range(2):
        matcher = Matcher(convolutional(), next(images(16)))
        (moved,) = matcher.align(request(folder, "activations", "stranger"), images(16, 16))
        found.append((moved, (folder / "stranger.out").read_bytes()))
    assert found[0] == found[1]
    assert found[0][0]


@pytest.mark.parametrize("how", HOW)
def test_tied_tensors_and_inputs_by_name(tmp_path: Path, how: Align) -> None:
    """A tied tensor lies in a file once, under any of its names, and moves once."""
    torch.manual_seed(0)
    tensors = {k: v for k, v in Named().state_dict().items() if k != "embedding.weight"}
    tensors["norm.weight"] = torch.rand(WIDTH) + 0.5
    save_file(tensors, tmp_path / "anchor")
    order = torch.randperm(WIDTH)
    inner = {"inner.weight": tensors["inner.weight"][order], "inner.bias": torch.rand(WIDTH)}
    tensors["inner.bias"] = inner["inner.bias"]
    save_file(tensors, tmp_path / "anchor")
    inner["inner.bias"] = tensors["inner.bias"][order]
    outer = {"outer.weight": tensors["outer.weight"][:, order].contiguous()}
    save_file({**tensors, **inner, **outer}, tmp_path / "other")
    matcher = Matcher(Named(), next(sentences(8)))
    assert matcher.align(request(tmp_path, how, "other"), sentences(8, 8, 8)) != [0]
    found = load_file(tmp_path / "other.out")
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_model_that_overflows_is_not_matched_and_the_others_are(tmp_path: Path) -> None:
    """Inner products of what a float64 can hold need not be numbers; one neighbour's problem."""
    tensors = {name: tensor.double() for name, tensor in convolutional().state_dict().items()}
    for name, scale in (("anchor", 1e200), ("copy", 1.0), ("huge", 1e200)):
        save_file({**tensors, "0.weight": tensors["0.weight"] * scale}, tmp_path / name)
    matcher = Matcher(convolutional(), next(images(16)))
    moved = matcher.align(request(tmp_path, "weights", "huge", "copy"), ())
    assert moved == [None, 0]
    assert not (tmp_path / "huge.out").exists()


@pytest.mark.parametrize("scale", [1e15, 1e25, 1e38])
def test_activations_that_overflow_are_those_of_dead_units(folder: Path, scale: float) -> None:
    """No number that a neighbour sends stops the node that matches it."""
    huge = load_file(folder / "other")
    huge["0.weight"] = (huge["0.weight"] * scale).clamp(-3e38, 3e38)
    save_file(huge, folder / "huge")
    matcher = Matcher(convolutional(), next(images(16)))
    (moved,) = matcher.align(request(folder, "activations", "huge"), images(16))
    assert moved is not None
    assert set(load_file(folder / "huge.out")) == set(huge)


def test_a_model_that_cannot_be_traced_is_told() -> None:
    class Moody(nn.Module):
        def forward(self, found: Tensor) -> Tensor:
            return found if float(found.sum()) > 0 else -found

    with pytest.raises(CannotAlign, match="Moody cannot be traced"):
        Matcher(Moody(), torch.ones(2, 3))


def test_no_batch_of_the_right_shape_is_told(folder: Path) -> None:
    matcher = Matcher(convolutional(), next(images(16)))
    with pytest.raises(CannotAlign, match="no calibration batch"):
        matcher.align(request(folder, "activations", "other"), [])


def cut(*sizes: int) -> list[Tensor]:
    """The numbers from 0, in batches, cut anew."""
    numbers = torch.arange(float(sum(sizes)))[:, None]
    return [inputs for (inputs,) in of_one_shape(torch.split(numbers, list(sizes)))]


@pytest.mark.parametrize("sizes", [(3,), (3, 3), (3, 1), (3, 1, 1, 1), (2, 5), (4, 9, 2), (1, 5)])
def test_batches_are_cut_to_the_first_ones_size_and_nothing_is_lost_between(
    sizes: tuple[int, ...],
) -> None:
    found = cut(*sizes)
    assert [len(each) for each in found] == [sizes[0]] * (sum(sizes) // sizes[0])
    assert torch.equal(torch.cat(found).flatten(), torch.arange(float(sum(map(len, found)))))


def test_samples_of_another_shape_are_left_out() -> None:
    batches: list[Batch] = [torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 3).double()]
    assert [len(inputs) for (inputs,) in of_one_shape([*batches, torch.ones(4, 3)])] == [2, 2, 2]
    paired: list[Batch] = [{"a": torch.ones(2, 1), "b": torch.ones(2)}, {"a": torch.ones(2, 1)}]
    assert len(list(of_one_shape(paired))) == 1


def test_what_is_no_batch_is_told() -> None:
    with pytest.raises(BadBatch, match="gave a batch of str"):
        list(of_one_shape([("text",)]))  # type: ignore[list-item]
