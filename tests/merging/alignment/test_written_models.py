"""Models as others write them: layers of torch, channels weighed, places rolled, odd buffers."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.merging.alignment.zoo import Exhibit, images, prepared, shuffled, tensors_of, words
from weft.merging.alignment.groups import Groups, groups_of
from weft.merging.alignment.tracing import Traced, trace
from weft.merging.errors import CannotAlign


class Reads(nn.Module):
    """A layer, something in between, a layer; the middle is a function of three."""

    def __init__(
        self, first: nn.Module, middle: Callable[..., Tensor], last: nn.Module, **inner: nn.Module
    ) -> None:
        super().__init__()
        self.first, self.last, self.middle = first, last, middle
        self.inner = nn.ModuleDict(inner)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.last(self.middle(self.first(values), **self.inner))
        return result


def weighed(images: Tensor, one: nn.Module, other: nn.Module) -> Tensor:
    """Squeeze and excite."""
    weights: Tensor = torch.sigmoid(other(functional.relu(one(images.mean((2, 3))))))
    return torch.mul(images, weights[:, :, None, None])


def next_like(
    images: Tensor, deep: nn.Module, norm: nn.Module, up: nn.Module, down: nn.Module
) -> Tensor:
    """A block with its channels last, then the mean over places."""
    inner: Tensor = down(functional.gelu(up(norm(deep(images).permute(0, 2, 3, 1)))))
    return (images + inner.permute(0, 3, 1, 2)).mean((-2, -1))


def attending(values: Tensor, attention: nn.Module) -> Tensor:
    found: Tensor = attention(values, values, values)[0]
    return values + found


def normed_heads(values: Tensor, norm: nn.Module, **layers: nn.Module) -> Tensor:
    query, key, value = (
        layers[name](values).unflatten(-1, (2, 4)).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    seen = functional.scaled_dot_product_attention(norm(query), norm(key), value)
    return seen.transpose(1, 2).flatten(2)


class Rolled(nn.Module):
    """As a Swin: windows of rolled places, and a table of biases by relative place."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.three = nn.Conv2d(3, 8, 1), nn.Linear(8, 24)
        self.dense, self.out = nn.Linear(8, 8), nn.Linear(8, 2)
        self.table = nn.Parameter(torch.randn(7, 2))
        index = torch.arange(4)[:, None] - torch.arange(4)[None, :] + 3
        self.register_buffer("index", index)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.roll(self.enter(images).permute(0, 2, 3, 1), (-1, -1), (1, 2))
        windows = hidden.view(-1, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 8)
        query, key, value = (
            each.unflatten(-1, (2, 4)).transpose(1, 2) for each in self.three(windows).chunk(3, -1)
        )
        index = self.get_buffer("index")
        bias = self.table[index.view(-1)].view(4, 4, 2).permute(2, 0, 1)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        windows = windows + self.dense(seen.transpose(1, 2).flatten(2))
        result: Tensor = self.out(windows.amax(1))
        return result


class Transposed(nn.Module):
    """As GPT-2: weights (inputs, outputs), a mask that no file holds, tied words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.norms = nn.ModuleList([nn.LayerNorm(8) for _ in range(3)])
        shapes = ((8, 24), (8, 8), (8, 32), (32, 8))
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in shapes])
        self.biases = nn.ParameterList([nn.Parameter(torch.randn(wide)) for _, wide in shapes])
        mask = torch.tril(torch.ones(6, 6, dtype=torch.bool))[None, None]
        self.register_buffer("mask", mask, persistent=False)

    def layer(self, number: int, hidden: Tensor) -> Tensor:
        weight, bias = self.weights[number], self.biases[number]
        flat = torch.addmm(bias, hidden.view(-1, hidden.size(-1)), weight)
        return flat.view(*hidden.shape[:-1], -1)

    def forward(self, words: Tensor) -> Tensor:
        count = words.shape[1]
        hidden = self.words(words) + self.places(torch.arange(count))
        three = torch.split(self.layer(0, self.norms[0](hidden)), 8, dim=2)
        query, key, value = (each.view(-1, count, 2, 4).transpose(1, 2) for each in three)
        scores = query @ key.transpose(-1, -2) / 2
        mask = self.get_buffer("mask")[:, :, :count, :count]
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
        seen = (scores.softmax(-1) @ value).transpose(1, 2).reshape(hidden.shape)
        hidden = hidden + self.layer(1, seen)
        hidden = hidden + self.layer(3, functional.gelu(self.layer(2, self.norms[1](hidden))))
        result: Tensor = self.norms[2](hidden) @ self.words.weight.T
        return result


def rows(width: int = 3) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randn(2, 5, width),)


def attention_like(**options: bool) -> nn.Module:
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
    return Reads(nn.Linear(3, 8), attending, nn.Linear(8, 2), attention=attention)


MODELS: Mapping[str, Exhibit] = {
    "channels weighed": Exhibit(
        build=lambda: Reads(
            nn.Conv2d(3, 8, 3), weighed, nn.Conv2d(8, 2, 1),
            one=nn.Linear(8, 4), other=nn.Linear(4, 8),
        ),
        inputs=images, units=8 + 4,
    ),
    "channels last": Exhibit(
        build=lambda: Reads(
            nn.Conv2d(3, 8, 2, stride=2), next_like, nn.Linear(8, 2),
            deep=nn.Conv2d(8, 8, 3, padding=1, groups=8), norm=nn.LayerNorm(8),
            up=nn.Linear(8, 16), down=nn.Linear(16, 8),
        ),
        inputs=images, units=8 + 16,
    ),
    # Queries, keys and values are parts of one axis that is read by number: the units of a
    # head have one order in all three.
    "attention": Exhibit(build=attention_like, inputs=rows(), units=8 + 2 + 2 * 4),
    "attention, a key and a value more": Exhibit(
        build=lambda: attention_like(add_bias_kv=True, add_zero_attn=True), inputs=rows(),
        units=8 + 2 + 2 * 4,
    ),
    # The model's input is its stream, and fixed.
    "encoder layer": Exhibit(
        build=lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), inputs=rows(8),
        units=2 + 2 * 4 + 16,
    ),
    "encoder": Exhibit(
        build=lambda: nn.Sequential(
            nn.Linear(3, 8),
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), 2,
                enable_nested_tensor=False,
            ),
            nn.Linear(8, 2),
        ),
        inputs=rows(), units=8 + 2 * (2 + 2 * 4 + 16),
    ),
    "words as inputs and outputs": Exhibit(
        build=Transposed, inputs=words, units=8 + 2 + 2 * 4 + 2 * 4 + 32
    ),
    # One norm for all heads: one order of the units of queries and keys in all of them.
    "normed heads": Exhibit(
        build=lambda: Reads(
            nn.Linear(3, 8), normed_heads, nn.Linear(8, 2),
            query=nn.Linear(8, 8), key=nn.Linear(8, 8), value=nn.Linear(8, 8), norm=nn.RMSNorm(4),
        ),
        inputs=rows(), units=8 + 2 + 4 + 2 * 4,
    ),
    # A column of the table of biases for each head: heads move, with them its columns.
    "rolled windows": Exhibit(
        build=Rolled, inputs=lambda: images(2, 4), units=8 + 2 + 2 * 4 + 2 * 4
    ),
    "halves": Exhibit(
        build=lambda: nn.Sequential(nn.Linear(3, 16), nn.GLU(), nn.Linear(8, 2)),
        inputs=rows(), units=8,
    ),
    "finer places": Exhibit(
        build=lambda: nn.Sequential(
            nn.Conv2d(3, 24, 3), nn.PixelShuffle(2), nn.PReLU(6), nn.Conv2d(6, 2, 3)
        ),
        inputs=images, units=6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_any_order_leaves_the_function_and_no_unit_is_forgotten(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = prepared(MODELS[name].build()), MODELS[name].inputs()
    traced = trace(model, inputs, {})
    groups, tensors = groups_of(traced), tensors_of(model)
    moved = shuffled(groups, 1).applied(tensors)
    assert traced.unruled == frozenset()
    assert sum(group.units for group in groups.groups) == MODELS[name].units
    with torch.no_grad():
        before = model(*inputs)
        after = torch.func.functional_call(model, moved, inputs)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5 * float(before.abs().max()))


def reasons(groups: Groups, tensor: str, axis: int) -> set[str]:
    return {line.why for line in groups.fixed if (line.tensor, line.axis) == (tensor, axis)}


class Recurrent(nn.Module):
    def __init__(self, cell: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.enter, self.cell = nn.Linear(3, 8), cell(8, 6, batch_first=True)
        self.out = nn.Linear(6, 2)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.out(torch.relu(self.cell(self.enter(values))[0][:, -1]))
        return result


@pytest.mark.parametrize(("cell", "operator"), [(nn.LSTM, "lstm"), (nn.GRU, "gru")])
def test_recurrent_layers_are_fixed_and_said_to_be(
    cell: Callable[..., nn.Module], operator: str
) -> None:
    traced = trace(Recurrent(cell), rows()(), {})
    groups = groups_of(traced)
    assert traced.unruled == {operator}
    assert groups.groups == ()
    assert reasons(groups, "enter.weight", 0) == {f"read in order by {operator}"}
    assert reasons(groups, "out.weight", 1) == {f"made by {operator}"}


class Kept(nn.Module):
    """Buffers of every kind, inputs by name, a dictionary for an output."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 8), nn.Linear(8, 2)
        self.register_buffer("shift", torch.rand(8), persistent=persistent)
        self.register_buffer("counts", torch.arange(8))
        self.register_buffer("mask", torch.arange(8) % 3 > 0)
        self.unread = nn.Parameter(torch.randn(5))

    def forward(self, *, rows: Tensor, scale: Tensor) -> dict[str, Tensor]:
        hidden = self.one(rows) * self.get_buffer("shift") + self.get_buffer("counts")
        hidden = torch.where(self.get_buffer("mask"), hidden, 0.0)
        return {"classes": self.two(torch.relu(hidden)) * scale, "hidden": hidden.sum()}


def kept(*, persistent: bool) -> tuple[nn.Module, Mapping[str, Tensor], Traced]:
    model = Kept(persistent=persistent).eval()
    inputs = {"rows": torch.randn(2, 3), "scale": torch.ones(1)}
    return model, inputs, trace(model, (), inputs)


def test_buffers_of_whole_numbers_move_with_their_units() -> None:
    model, inputs, traced = kept(persistent=True)
    groups, tensors = groups_of(traced), tensors_of(model)
    moved = shuffled(groups, 1).applied(tensors)
    assert [group.size for group in groups.groups] == [8]
    assert not torch.equal(moved["counts"], tensors["counts"])
    with torch.no_grad():
        before = model(**inputs)
        after = torch.func.functional_call(model, moved, (), dict(inputs))
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)


def test_units_of_a_buffer_that_no_file_holds_stay() -> None:
    """A checkpoint is permuted, such a buffer cannot be: what lies beside it must not move."""
    groups = groups_of(kept(persistent=False)[2])
    assert groups.groups == ()
    assert reasons(groups, "one.weight", 0) == {"an axis of a buffer that no file holds"}


def test_what_nothing_reads_stays() -> None:
    groups = groups_of(kept(persistent=True)[2])
    assert reasons(groups, "unread", 0) == {"no operator reads it"}


def test_sizes_that_depend_on_values_are_refused() -> None:
    def chosen(values: Tensor) -> Tensor:
        return values[values.sum(-1) > 0]

    with pytest.raises(CannotAlign, match="size depends on values"):
        trace(Reads(nn.Linear(3, 4), chosen, nn.Linear(4, 2)), rows()(), {})


def test_the_line_that_cannot_be_traced_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def forked(values: Tensor) -> Tensor:
        return values * 2 if values.sum() > 0 else values

    with pytest.raises(CannotAlign, match=r"values\.sum\(\) > 0") as caught:
        trace(Reads(nn.Linear(3, 4), forked, nn.Linear(4, 2)), rows()(), {})
    assert "test_written_models.py" in str(caught.value)
    assert "\n" not in str(caught.value)
    capfd.readouterr()
