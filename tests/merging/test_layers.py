"""Depth from names, as they are in models that people merge."""

from collections.abc import Sequence

import pytest

from weft.merging.layers import layers
from weft.merging.method import Layer


def found(names: Sequence[str]) -> list[tuple[int | None, int]]:
    return [(layer.index, layer.count) for layer in layers(names).values()]


def numbered(pattern: str, count: int, first: int = 0) -> list[str]:
    return [pattern.format(number) for number in range(first, first + count)]


@pytest.mark.parametrize(
    ("pattern", "outside"),
    [
        (
            "model.layers.{}.self_attn.q_proj.weight",
            ["model.embed_tokens.weight", "lm_head.weight"],
        ),
        ("bert.encoder.layer.{}.attention.self.query.bias", ["bert.pooler.dense.weight"]),
        (
            "transformer.h.{}.attn.c_attn.weight",
            ["transformer.wte.weight", "transformer.ln_f.bias"],
        ),
        ("vit.blocks.{}.mlp.fc1.weight", ["vit.cls_token", "vit.norm.weight"]),
        ("visual.transformer.resblocks.{}.ln_1.weight", ["visual.conv1.weight", "visual.proj"]),
        ("gpt_neox.layers.{}.attention.dense.weight", ["gpt_neox.final_layer_norm.weight"]),
        (
            "base_model.model.model.layers.{}.self_attn.v_proj.lora_A.weight",
            ["base_model.model.lm_head.lora_A.weight"],
        ),
        ("0.auto_model.encoder.layer.{}.output.dense.weight", ["0.auto_model.pooler.dense.bias"]),
        ("encoder.layers.encoder_layer_{}.mlp.0.weight", ["conv_proj.weight", "class_token"]),
        ("params.block_{}.kernel", ["params.block_norm.scale", "params.conv_0.kernel"]),
        ("{}.weight", ["scale"]),
    ],
)
def test_transformers(pattern: str, outside: list[str]) -> None:
    names = [*numbered(pattern, 12), *outside]
    assert found(names) == [*((index, 12) for index in range(12)), *((None, 12) for _ in outside)]


def test_numbers_inside_a_block_are_not_depth() -> None:
    names = [
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight"
        for layer in range(3)
        for expert in range(8)
    ]
    assert found(names) == [(layer, 3) for layer in range(3) for _ in range(8)]


def test_a_resnet_has_an_index_in_each_stage() -> None:
    blocks = {"layer1": 3, "layer2": 4, "layer3": 6, "layer4": 3}
    names = [
        f"{stage}.{block}.conv1.weight" for stage, count in blocks.items() for block in range(count)
    ]
    expected = [(block, 6) for count in blocks.values() for block in range(count)]
    assert found(names) == expected
    assert layers([*names, "conv1.weight"])["conv1.weight"] == Layer(index=None, count=6)
    # The downsampling path is a list of its own, inside a block.
    inner = "layer2.0.downsample.1.weight"
    assert layers([*names, inner])[inner] == Layer(index=0, count=6)


def test_encoder_and_decoder_have_an_index_each() -> None:
    names = [
        *numbered("encoder.block.{}.layer.0.SelfAttention.q.weight", 12),
        *numbered("decoder.block.{}.layer.1.EncDecAttention.q.weight", 8),
        "shared.weight",
    ]
    indices = [*range(12), *range(8), None]
    assert found(names) == [(index, 12) for index in indices]


def test_an_index_is_the_place_among_the_numbers_that_occur() -> None:
    names = ["features.0.weight", "features.10.weight", "features.3.weight", "features.10.bias"]
    assert found(names) == [(0, 3), (2, 3), (1, 3), (2, 3)]
    assert found(numbered("layers.{}.w", 3, first=1)) == [(0, 3), (1, 3), (2, 3)]


def test_a_number_that_never_changes_tells_nothing() -> None:
    assert found(["model.layers.0.w", "model.layers.0.b", "norm.w"]) == [(None, 0)] * 3
    assert found(["0.weight", "0.bias"]) == [(None, 0)] * 2


def test_no_names_and_no_blocks() -> None:
    assert layers([]) == {}
    assert found(["fc1.weight", "fc2.weight", "conv2d_3.weight"]) == [(None, 0)] * 3


def test_any_order_of_names_gives_the_same() -> None:
    names = [*numbered("h.{}.w", 11), "wte.weight", *numbered("g.{}.w", 2)]
    assert layers(names) == layers(list(reversed(names)))
