"""Every model: its shape, its parameters counted by hand, and what it refuses."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from weft.simulations.errors import BadModel, BadOption
from weft.simulations.tasks.models import MODELS, build_model, parse_options, written

GREY, COLOUR = (8, 8), (32, 32, 3)


def weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def statistics(model: nn.Module) -> int:
    return sum("running" in name for name, _ in model.named_buffers())


def inputs(shape: tuple[int, ...], name: str) -> Tensor:
    if name == "transformer":
        return torch.arange(2 * shape[0]).reshape(2, *shape) % 10
    return torch.linspace(-1, 1, 2 * torch.Size(shape).numel()).reshape(2, *shape)


def resnet(width: int, channels: int, classes: int) -> int:
    """Of He et al.: 9 w c + stages of w, 2w, 4w, two weights a channel of each BatchNorm."""
    first = 9 * channels * width + 2 * width
    stages = 9 * 6 * width**2 + 6 * 2 * width
    for wide in (2 * width, 4 * width):
        stages += 9 * (wide // 2 * wide + 5 * wide**2) + 6 * 2 * wide
    return first + stages + 4 * width * classes + classes


def projecting(width: int, channels: int, classes: int) -> int:
    """Of 18 layers: 9 w c, stages of w to 8w, projections into three."""
    first = 9 * channels * width + 2 * width
    stages = 9 * 4 * width**2 + 4 * 2 * width
    for wide in (2 * width, 4 * width, 8 * width):
        stages += 9 * (wide // 2 * wide + 3 * wide**2) + 4 * 2 * wide
        stages += wide // 2 * wide + 2 * wide
    return first + stages + 8 * width * classes + classes


def vgg(width: int, channels: int, classes: int) -> int:
    widths = [channels, *(width * multiple for multiple in (1, 2, 4, 4, 8, 8, 8, 8))]
    convolutions = sum(9 * a * b for a, b in pairwise(widths))
    return convolutions + 2 * sum(widths[1:]) + 8 * width * classes + classes


def blocks(width: int, depth: int) -> int:
    """Of a block 12 w^2 weights, 9 w biases, two LayerNorms of 2 w; one more at the end."""
    return depth * (12 * width**2 + 13 * width) + 2 * width


@pytest.mark.parametrize(
    ("name", "shape", "options", "expected", "normed"),
    [
        ("mlp", GREY, {}, 64 * 128 + 128 + 128 * 10 + 10, 0),
        ("mlp", (7,), {"hidden": 5, "layers": 2}, 7 * 5 + 5 + 5 * 5 + 5 + 5 * 10 + 10, 0),
        ("cnn", GREY, {}, 9 * 16 + 32 + 9 * 16 * 32 + 64 + 32 * 16 * 10 + 10, 2),
        ("resnet20", COLOUR, {}, 269_722, 19),
        ("resnet20", GREY, {"width": 4}, resnet(4, 1, 10), 19),
        ("resnet18", COLOUR, {}, 11_173_962, 20),
        ("resnet18", GREY, {"width": 4}, projecting(4, 1, 10), 20),
        ("vgg", COLOUR, {"width": 8}, vgg(8, 3, 10), 8),
        ("vgg", (28, 28), {"width": 4}, vgg(4, 1, 10), 8),
        ("vit_tiny", COLOUR, {}, (16 * 3 + 1) * 64 + 64 * 64 + blocks(64, 4) + 65 * 10, 0),
        ("vit_tiny", GREY, {"patch": 2, "depth": 1, "width": 8, "heads": 2},
         (4 + 1) * 8 + 16 * 8 + blocks(8, 1) + 9 * 10, 0),
        ("transformer", (12,), {}, 10 * 64 + 12 * 64 + blocks(64, 2) + 64 * 10, 0),
        ("transformer", (3,), {"depth": 3, "width": 6, "heads": 3},
         10 * 6 + 3 * 6 + blocks(6, 3) + 6 * 10, 0),
    ],
)  # fmt: skip
def test_parameters_by_hand_and_outputs(
    name: str, shape: tuple[int, ...], options: dict[str, int], expected: int, normed: int
) -> None:
    model = build_model(name, shape=shape, classes=10, **options).eval()
    assert weights(model) == expected
    assert statistics(model) == 2 * normed
    outputs = model(inputs(shape, name))
    assert outputs.shape == ((2, *shape, 10) if name == "transformer" else (2, 10))
    assert torch.isfinite(outputs).all()


def test_resnet_formula_is_the_known_count() -> None:
    assert resnet(16, 3, 10) == 269_722
    assert projecting(64, 3, 10) == 11_173_962


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_a_part_in_the_outputs(name: str) -> None:
    shape = {"transformer": (5,), "vgg": (16, 16)}.get(name, GREY)
    torch.manual_seed(0)
    model = build_model(name, shape=shape, classes=10)
    model(inputs(shape, name)).square().sum().backward()
    still = [key for key, each in model.named_parameters() if each.grad is None]
    assert still == []


def test_a_causal_model_does_not_see_what_comes() -> None:
    torch.manual_seed(0)
    model = build_model("transformer", shape=(6,), classes=10).eval()
    text = torch.tensor([[1, 2, 3, 4, 5, 6]])
    other = text.clone()
    other[0, 3] = 9
    said, then = model(text), model(other)
    torch.testing.assert_close(said[:, :3], then[:, :3])
    assert (said[:, 3:] - then[:, 3:]).abs().amax(dim=2).min() > 1e-4
    torch.testing.assert_close(model(text[:, :4]), said[:, :4])


def test_a_vision_transformer_sees_where_a_patch_lies() -> None:
    torch.manual_seed(0)
    model = build_model("vit_tiny", shape=GREY, classes=10).eval()
    image = inputs(GREY, "vit_tiny")[:1]
    assert (model(image) - model(image.roll(4, dims=1))).abs().max() > 1e-4


def test_a_residual_block_without_weights_is_its_shortcut() -> None:
    """Every other pixel, and zeros in the channels that are new: two before, two after."""
    from weft.simulations.tasks.models.residual import Residual

    block = Residual(4, 8, stride=2).eval()
    for layer in block.inner:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    images = torch.rand(1, 4, 5, 5)
    found = block(images)
    assert torch.equal(found[:, 2:6], images[:, :, ::2, ::2])
    assert not found[:, :2].any()
    assert not found[:, 6:].any()


@pytest.mark.parametrize(
    ("name", "shape", "options", "said"),
    [
        ("cnn", (7,), {}, r"'cnn' wants images; these examples have shape \(7,\); try 'mlp'"),
        ("resnet20", (7,), {}, "'resnet20' wants images"),
        ("vit_tiny", (7,), {}, "'vit_tiny' wants images"),
        ("vgg", (7,), {}, "'vgg' wants images"),
        ("vgg", GREY, {}, "'vgg' wants images of at least 16 x 16; these are 8 x 8"),
        ("vit_tiny", (10, 8), {}, "10 x 8 cannot be cut into patches of 4 x 4"),
        ("vit_tiny", GREY, {"width": 10}, "width = 10 with heads = 4"),
        ("transformer", GREY, {}, "'transformer' wants rows of tokens"),
        ("mlp", GREY, {"hiden": 3}, "'mlp' has no option 'hiden'; did you mean 'hidden'"),
        ("cnn", GREY, {"rank": 3}, "'cnn' has no option 'rank'; it takes width"),
        ("mlp", GREY, {"hidden": 0}, "hidden = 0; expected a whole number from 1"),
        ("mlp", GREY, {"hidden": True}, "hidden = True"),
        (
            "resnet",
            GREY,
            {},
            "no model 'resnet'; known are mlp, cnn, resnet20, resnet18, vgg, vit_tiny and",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    name: str, shape: tuple[int, ...], options: dict[str, int], said: str
) -> None:
    with pytest.raises(BadOption, match=said):
        build_model(name, shape=shape, classes=10, **options)


def test_numbers_are_no_tokens() -> None:
    model = build_model("transformer", shape=(4,), classes=10)
    with pytest.raises(BadModel, match=r"expected tokens \(int64\)"):
        model(torch.rand(1, 4))


def test_options_as_text() -> None:
    assert parse_options("") == {}
    assert parse_options(" width=8,depth=2 heads=4") == {"width": 8, "depth": 2, "heads": 4}
    assert parse_options(written({"width": 8, "depth": 2})) == {"width": 8, "depth": 2}
    for wrong in ("width", "width=", "=3", "width=-1", "width=1.5"):
        with pytest.raises(BadOption, match="expected NAME=NUMBER"):
            parse_options(wrong)
