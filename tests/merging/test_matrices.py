"""Which tensors are linear weights; and that no spectral method takes a rule that is none."""

import pytest

from weft.merging.errors import BadOption
from weft.merging.hyperparameters import options_of
from weft.merging.matrices import is_linear, linear_scope
from weft.merging.method import Scope
from weft.merging.registry import TABLE, create

SPECTRAL = [
    line.name
    for line in TABLE
    if any(name == "tables" for name, _, _, _ in options_of(line.load()))
]


@pytest.mark.parametrize(
    ("name", "shape", "linear"),
    [
        ("layers.0.q.weight", (4, 3), True),
        ("head.weight", (2, 2), True),
        ("layers.0.q.bias", (4,), False),
        ("scale", (), False),
        ("conv.weight", (4, 3, 2, 2), False),
        ("row.weight", (1, 9), False),
        ("none.weight", (0, 9), False),
        ("embed_tokens.weight", (9, 4), False),
        ("model.word_embeddings.weight", (9, 4), False),
        ("transformer.wte.weight", (9, 4), False),
        ("lm_head.weight", (9, 4), False),
        ("shared.weight", (9, 4), False),
        ("unshared.weight", (9, 4), True),
        ("bert.embeddings.word_embeddings.weight", (9, 4), False),
        ("bert.embeddings.LayerNorm.weight", (4,), False),
        ("tok_embeddings.weight", (9, 4), False),
        ("embed_out.weight", (9, 4), False),
        ("positional_embedding", (9, 4), False),
        ("pos_embed", (9, 4), False),
        ("text_model.embeddings.position_embedding.weight", (9, 4), False),
        ("vision_model.embeddings.patch_embedding.weight", (4, 3, 2, 2), False),
        ("vision_model.embeddings.class_embedding", (4,), False),
        ("decoder.embed_tokens.0.weight", (9, 4), False),
        ("semantic.input_embeds_layers.1.weight", (9, 4), False),
        ("lm_head.decoder.weight", (9, 4), False),
        ("lm_head.dense.weight", (4, 4), True),
        ("time_embedding.linear_1.weight", (9, 4), True),
        ("time_embed.0.weight", (9, 4), True),
        ("add_embedding.linear_2.weight", (9, 9), True),
        ("text_embedding.2.weight", (9, 4), True),
        ("x_embedder.proj.weight", (9, 4), True),
        ("mlp.shared.up_proj.weight", (9, 4), True),
        ("text_projection", (4, 4), True),
        ("text_projection.weight", (4, 4), True),
    ],
)
def test_linear_weights(name: str, shape: tuple[int, ...], linear: bool) -> None:
    assert is_linear(name, shape) is linear
    assert linear_scope(name, shape) is (Scope.MATRIX if linear else Scope.ELEMENT)


def test_a_rule_of_the_user() -> None:
    assert is_linear("lm_head.weight", (9, 4), tables="^$")
    assert not is_linear("layers.0.q.weight", (9, 4), tables=r"\.q\.")


def test_there_are_spectral_methods() -> None:
    assert {"knots", "lora_svd", "lora_lego", "tsv_m", "iso_c"} <= set(SPECTRAL)


@pytest.mark.parametrize("method", SPECTRAL)
def test_a_rule_that_does_not_compile_is_refused(method: str) -> None:
    with pytest.raises(BadOption, match=r"tables is '\(embed', expected a regular expression \("):
        create(method, tables="(embed")
    assert create(method, tables="^$") is not None
