"""Names cut at their layer, and configurations of stacks."""

import doctest

import pytest

from weft.checkpoints import stacking
from weft.checkpoints.errors import MalformedFile, SchemaMismatch
from weft.checkpoints.stacking import (
    LAYER_COUNTS,
    LayerRange,
    only_stack,
    split_layer,
    stacked_config,
    stands_before,
)

BEFORE = [
    "model.embed_tokens.weight",
    "transformer.wte.weight",
    "transformer.wpe.weight",
    "gpt_neox.embed_in.weight",
    "transformer.word_embeddings.weight",
    "transformer.word_embeddings_layernorm.bias",
    "bert.embeddings.LayerNorm.bias",
    "shared.weight",
    "transformer.rotary_pos_emb.inv_freq",
]
AFTER = [
    "lm_head.weight",
    "model.norm.weight",
    "embed_out.weight",
    "gpt_neox.final_layer_norm.bias",
    "transformer.ln_f.weight",
    "output.weight",
    "score.weight",
    "classifier.bias",
    "transformer.output_layer.weight",
    "backbone.norm_f.weight",
]
LAYERED = [
    ("model.layers.12.mlp.up_proj.weight", "model.layers", 12),
    ("h.0.ln_1.bias", "h", 0),
    ("3.weight", "", 3),
    ("model.layers.3.mlp.experts.7.w1.weight", "model.layers", 3),
    ("layers.5", "layers", 5),
]


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(stacking).failed == 0


@pytest.mark.parametrize("name", BEFORE)
def test_what_stands_before_the_layers(name: str) -> None:
    assert stands_before(name)


@pytest.mark.parametrize("name", AFTER)
def test_what_stands_after_the_layers(name: str) -> None:
    assert not stands_before(name)


@pytest.mark.parametrize(("name", "stack", "index"), LAYERED)
def test_a_name_is_cut_at_its_first_number(name: str, stack: str, index: int) -> None:
    cut = split_layer(name)
    assert cut is not None
    assert (cut.stack, cut.index) == (stack, index)
    assert cut.at(index) == name
    assert split_layer(cut.at(41)) == type(cut)(stack, 41, cut.rest)


@pytest.mark.parametrize("name", [*BEFORE, *AFTER, "layer4x.weight", "conv1.bias", "a.²"])
def test_a_name_without_a_layer(name: str) -> None:
    assert split_layer(name) is None


def test_one_stack_and_no_more() -> None:
    assert only_stack(["model.layers.0.a", "model.layers.1.a", "norm"], "here") == "model.layers"
    with pytest.raises(SchemaMismatch, match=r"^here: stacks of layers: found none, expected"):
        only_stack(["norm"], "here")
    with pytest.raises(SchemaMismatch, match=r"found 'layers' and 'visual\.blocks', expected"):
        only_stack(["visual.blocks.0.a", "layers.0.a"], "here")


@pytest.mark.parametrize("key", LAYER_COUNTS)
def test_the_number_of_layers_is_set(key: str) -> None:
    config = {"hidden_size": 64, key: 4}
    parts = [LayerRange(config, 0, 3), LayerRange(config, 1, 4)]
    assert stacked_config(config, parts) == {"hidden_size": 64, key: 6}
    assert config[key] == 4


def test_lists_of_layers_are_put_together() -> None:
    one = {"n_layer": 3, "layer_types": ["a", "b", "c"], "eos_token_id": [1, 2, 3]}
    two = {"n_layer": 2, "layer_types": ["x", "y"]}
    found = stacked_config(one, [LayerRange(one, 0, 2), LayerRange(two, 1, 2)])
    assert found == {"n_layer": 3, "layer_types": ["a", "b", "y"], "eos_token_id": [1, 2, 3]}


def test_the_text_model_of_a_model_of_several_parts() -> None:
    text = {"num_hidden_layers": 2, "layer_types": ["a", "b"]}
    config = {"model_type": "vlm", "text_config": text}
    found = stacked_config(config, [LayerRange(config, 1, 2), LayerRange(config, 0, 2)])
    assert found == {
        "model_type": "vlm",
        "text_config": {"num_hidden_layers": 3, "layer_types": ["b", "a", "b"]},
    }


def test_configurations_that_do_not_say_enough() -> None:
    with pytest.raises(MalformedFile, match=r"^m/config\.json: no key says how many layers"):
        stacked_config({"hidden_size": 1}, [], "m/config.json")
    one = {"n_layer": 2, "layer_types": ["a", "b"]}
    with pytest.raises(
        MalformedFile, match=r"layer_types has an entry a layer, and .* layers 0 to"
    ):
        stacked_config(one, [LayerRange(one, 0, 2), LayerRange({"n_layer": 2}, 0, 1)])
    outer: dict[str, object] = {"text_config": one}
    with pytest.raises(MalformedFile, match="text_config: layer_types"):
        stacked_config(outer, [LayerRange({"text_config": 3}, 0, 1)])
