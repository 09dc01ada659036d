"""Adapters on a base: the model, the exact task vector, the factors; and what is refused."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d

from tests.checkpoints.crafted import bits, contents
from tests.checkpoints.folders import save_adapter
from weft.checkpoints.adapter_writer import write_adapter
from weft.checkpoints.adapters import AdapterReader
from weft.checkpoints.deltas import DeltaReader
from weft.checkpoints.errors import BadPath, BadTensor, MissingTensor
from weft.checkpoints.reader import MemoryReader, open_checkpoint
from weft.errors import WeftError

R = 2


def normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.randn(*shape, generator=generator)


def base() -> dict[str, Tensor]:
    return {
        "l.0.q.weight": normal(6, 4).bfloat16(),
        "l.1.q.weight": normal(6, 4),
        "l.1.q.bias": normal(6),
        "conv.weight": normal(5, 3, 2, 2),
        "embed.weight": normal(9, 4).half(),
        "head.weight": normal(3, 4),
        "ids": torch.arange(3),
    }


def pair(module: str, out: int, into: int, rank: int = R) -> dict[str, Tensor]:
    return {
        f"{module}.lora_A.weight": normal(rank, into),
        f"{module}.lora_B.weight": normal(out, rank),
    }


def exact(tensors: dict[str, Tensor], module: str, scale: float) -> Tensor:
    a, b = (tensors[f"{module}.lora_{half}.weight"].double() for half in "AB")
    return scale * (b @ a)


def test_golden(tmp_path: Path) -> None:
    """2 x [[1], [2]] [[3, 4]] on ones; scale = alpha / r = 2 / 1."""
    tensors = {
        "q.lora_A.weight": torch.tensor([[3.0, 4.0]]),
        "q.lora_B.weight": torch.tensor([[1.0], [2.0]]),
    }
    save_adapter(tmp_path, tensors, r=1, lora_alpha=2)
    with AdapterReader(tmp_path, MemoryReader({"q.weight": torch.ones(2, 2)})) as reader:
        assert reader.read("q.weight").tolist() == [[7.0, 9.0], [13.0, 17.0]]
        (delta,) = reader.delta_ranges("q.weight", 1, 4, 3, torch.float32)
        assert delta.tolist() == [8.0, 12.0, 16.0]
        found = reader.factors("q.weight")
        assert found is not None
        assert [part.tolist() for part in found[:2]] == [[[1.0], [2.0]], [[3.0, 4.0]]]
        assert found[2] == 2.0


def test_model_is_base_plus_product_rounded_once(tmp_path: Path) -> None:
    tensors = pair("l.0.q", 6, 4) | pair("l.1.q", 6, 4)
    save_adapter(tmp_path, tensors)
    origin = base()
    with AdapterReader(tmp_path, MemoryReader(origin)) as reader:
        assert isinstance(reader, DeltaReader)
        assert reader.schema == MemoryReader(origin).schema
        assert reader.changed == ("l.0.q.weight", "l.1.q.weight")
        found = contents(reader)
        for name, tensor in origin.items():
            expected = tensor
            if name in reader.changed:
                delta = exact(tensors, name.removesuffix(".weight"), 2.0)
                expected = (tensor.double() + delta).to(tensor.dtype)
                (given,) = reader.delta_ranges(name, 0, 24, 24, torch.float64)
                torch.testing.assert_close(given, delta.reshape(-1), rtol=1e-14, atol=1e-14)
            assert found[name] == bits(expected)


def test_task_vector_survives_where_the_model_rounds_it_away(tmp_path: Path) -> None:
    tensors = {name: tensor * 1e-5 for name, tensor in pair("l.0.q", 6, 4).items()}
    save_adapter(tmp_path, tensors)
    with AdapterReader(tmp_path, MemoryReader(base())) as reader:
        assert bits(reader.read("l.0.q.weight")) == bits(base()["l.0.q.weight"])
        (delta,) = reader.delta_ranges("l.0.q.weight", 0, 24, 24, torch.float32)
        assert float(delta.abs().min()) > 0


def test_ranges_have_the_bits_of_the_whole(tmp_path: Path) -> None:
    save_adapter(tmp_path, pair("l.0.q", 6, 4))
    with AdapterReader(tmp_path, MemoryReader(base())) as reader:
        whole = reader.read("l.0.q.weight").reshape(-1)
        (exactly,) = reader.delta_ranges("l.0.q.weight", 0, 24, 24, torch.float64)
        for start in range(24):
            for step in (1, 5, 24):
                blocks = [b.clone() for b in reader.ranges("l.0.q.weight", start, 24, step)]
                assert bits(torch.cat(blocks)) == bits(whole[start:])
                deltas = reader.delta_ranges("l.0.q.weight", start, 24, step, torch.float64)
                assert torch.equal(torch.cat(list(deltas)), exactly[start:])


def test_tensors_without_a_module(tmp_path: Path) -> None:
    save_adapter(tmp_path, pair("l.0.q", 6, 4))
    with AdapterReader(tmp_path, MemoryReader(base())) as reader:
        assert reader.factors("l.1.q.weight") is None
        blocks = list(reader.delta_ranges("l.1.q.weight", 3, 20, 10, torch.float32))
        assert [block.tolist() for block in blocks] == [[0.0] * 10, [0.0] * 7]
        with pytest.raises(MissingTensor):
            list(reader.delta_ranges("nowhere", 0, 1, 1, torch.float32))
        with pytest.raises(MissingTensor):
            reader.factors("nowhere")


def test_embedding(tmp_path: Path) -> None:
    """Saved the other way round: A is (r, tokens), B is (width, r)."""
    a, b = normal(R, 9), normal(4, R)
    save_adapter(tmp_path, {"embed.lora_embedding_A": a, "embed.lora_embedding_B": b})
    with AdapterReader(tmp_path, MemoryReader(base())) as reader:
        expected = 2.0 * (b.double() @ a.double()).T
        (delta,) = reader.delta_ranges("embed.weight", 0, 36, 36, torch.float64)
        torch.testing.assert_close(delta.view(9, 4), expected, rtol=1e-14, atol=1e-14)
        found = reader.factors("embed.weight")
        assert found is not None
        torch.testing.assert_close(found[2] * found[0] @ found[1], expected.float())


def test_convolution(tmp_path: Path) -> None:
    tensors = {
        "conv.lora_A.weight": normal(R, 3, 2, 2),
        "conv.lora_B.weight": normal(5, R, 1, 1),
    }
    save_adapter(tmp_path, tensors)
    with AdapterReader(tmp_path, MemoryReader(base())) as reader:
        a, b = (tensors[f"conv.lora_{half}.weight"].double() for half in "AB")
        expected = 2.0 * conv2d(a.transpose(0, 1), b).transpose(0, 1)
        (delta,) = reader.delta_ranges("conv.weight", 0, 60, 60, torch.float64)
        torch.testing.assert_close(delta.view(5, 3, 2, 2), expected, rtol=1e-13, atol=1e-13)


def test_matrices_that_lie_the_other_way_round(tmp_path: Path) -> None:
    tensors = pair("l.1.q", 4, 6)
    save_adapter(tmp_path, tensors, fan_in_fan_out=True)
    with AdapterReader(tmp_path, MemoryReader(base())) as reader:
        expected = exact(tensors, "l.1.q", 2.0).T
        (delta,) = reader.delta_ranges("l.1.q.weight", 0, 24, 24, torch.float64)
        torch.testing.assert_close(delta.view(6, 4), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, (2.0, 2.0)),
        ({"use_rslora": True}, (4 / math.sqrt(2), 4 / math.sqrt(2))),
        ({"alpha_pattern": {"l.1.q": 10}}, (2.0, 5.0)),
        ({"alpha_pattern": {"q": 1}}, (0.5, 0.5)),
        ({"alpha_pattern": {"^l\\.0\\.q": 6, "q": 8}}, (3.0, 4.0)),
        ({"alpha_pattern": {"0.q": 6}}, (3.0, 2.0)),
        ({"alpha_pattern": {".*1.q": 6}, "lora_alpha": 1.5}, (0.75, 3.0)),
        ({"r": 7, "rank_pattern": {"q": 2}, "lora_alpha": 3}, (1.5, 1.5)),
    ],
)
def test_scale(config: dict[str, object], scales: tuple[float, float], tmp_path: Path) -> None:
    tensors = pair("l.0.q", 6, 4) | pair("l.1.q", 6, 4)
    save_adapter(tmp_path, tensors, **config)
    with AdapterReader(tmp_path, MemoryReader(base())) as reader:
        for number, scale in enumerate(scales):
            found = reader.factors(f"l.{number}.q.weight")
            assert found is not None
            assert found[2] == scale


def test_ranks_that_differ(tmp_path: Path) -> None:
    tensors = pair("l.0.q", 6, 4, rank=1) | pair("l.1.q", 6, 4)
    save_adapter(tmp_path, tensors, rank_pattern={"l.0.q": 1})
    with AdapterReader(tmp_path, MemoryReader(base())) as reader:
        found = reader.factors("l.0.q.weight")
        assert found is not None
        assert found[2] == 4.0


@pytest.mark.parametrize("wrapper", ["", "modules_to_save.", "base_layer."])
def test_modules_saved_whole(wrapper: str, tmp_path: Path) -> None:
    new = normal(3, 4) + 1
    save_adapter(tmp_path, {f"head.{wrapper}weight": new}, modules_to_save=["head"])
    origin = base()
    with AdapterReader(tmp_path, MemoryReader(origin)) as reader:
        assert bits(reader.read("head.weight")) == bits(new)
        (delta,) = reader.delta_ranges("head.weight", 2, 12, 10, torch.float64)
        expected = new.double() - origin["head.weight"].double()
        assert torch.equal(delta, expected.reshape(-1)[2:])
        assert reader.factors("head.weight") is None


def test_saved_whole_and_adapted(tmp_path: Path) -> None:
    new, tensors = normal(3, 4) + 1, pair("head", 3, 4)
    save_adapter(tmp_path, tensors | {"head.base_layer.weight": new})
    with AdapterReader(tmp_path, MemoryReader(base())) as reader:
        expected = new.double() + exact(tensors, "head", 2.0)
        torch.testing.assert_close(reader.read("head.weight").double(), expected)
        assert reader.factors("head.weight") is None


GOOD = pair("l.0.q", 6, 4)

REFUSED_CONFIGS: dict[str, tuple[dict[str, object], str]] = {
    "DoRA": ({"use_dora": True}, "'use_dora' is True"),
    "biases": ({"bias": "all"}, "bias 'all'"),
    "bias of B": ({"lora_bias": True}, "'lora_bias'"),
    "another kind": ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    "a kind of the future": ({"use_xlora": {"a": 1}}, "'use_xlora'"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "changes the base as well"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "changes the base as well"),
    "replicated layers": ({"layer_replication": [[0, 2]]}, "'layer_replication'"),
    "tokens": ({"trainable_token_indices": [1]}, "'trainable_token_indices'"),
    "rank 0": ({"r": 0}, "r is 0"),
    "rank true": ({"r": True}, "r is True"),
    "rank of another adapter": ({"r": 3}, "rank 3 expected"),
    "rank by pattern": ({"rank_pattern": {"q": 4}}, "rank 4 expected"),
    "alpha a text": ({"lora_alpha": "4"}, "lora_alpha is '4'"),
    "alpha huge": ({"lora_alpha": 1e300}, "lora_alpha"),
    "patterns a list": ({"rank_pattern": [1]}, "rank_pattern is no object"),
    "a pattern for ever": ({"alpha_pattern": {"(a+)+b": 1}}, "not a simple one"),
    "a pattern too long": ({"alpha_pattern": {"a" * 2000: 1}}, "not a simple one"),
    "a pattern of stars": ({"alpha_pattern": {".*.*.*.*x": 1}}, "not a simple one"),
    "a broken pattern": ({"alpha_pattern": {"(a": 1}}, "not a simple one"),
    "a module that is not there": ({"modules_to_save": ["score"]}, "lacks 'score'"),
    "modules a text": ({"modules_to_save": "score"}, "no list"),
}


@pytest.mark.parametrize("name", REFUSED_CONFIGS)
def test_configuration_that_is_refused(name: str, tmp_path: Path) -> None:
    config, fault = REFUSED_CONFIGS[name]
    save_adapter(tmp_path, GOOD, **config)
    refused(tmp_path, fault)


def refused(folder: Path, fault: str) -> None:
    with pytest.raises(WeftError) as caught:
        AdapterReader(folder, MemoryReader(base()))
    message = str(caught.value)
    assert fault in message
    assert str(folder) in message
    assert "\n" not in message


REFUSED_TENSORS: dict[str, tuple[dict[str, Tensor], str]] = {
    "half a pair": ({"l.0.q.lora_A.weight": normal(R, 4)}, "not the other half"),
    "the other half": ({"l.0.q.lora_B.weight": normal(6, R)}, "not the other half"),
    "halves of two kinds": (
        {"embed.lora_embedding_A": normal(R, 9), "embed.lora_B.weight": normal(4, R)},
        "not the other half",
    ),
    "another base's module": (pair("l.7.q", 6, 4), "belongs to another base"),
    "another width": (pair("l.0.q", 6, 5), "belongs to another base"),
    "turned": (pair("l.0.q", 4, 6), "belongs to another base"),
    "integers in the base": (pair("ids", 3, 1), "which the base does not have"),
    "a magnitude": (GOOD | {"l.0.q.lora_magnitude_vector": normal(6)}, "no part of plain LoRA"),
    "a bias": (GOOD | {"l.0.q.lora_B.bias": normal(6)}, "no part of plain LoRA"),
    "a name of an adapter": (
        {k.replace("A.w", "A.default.w"): v for k, v in GOOD.items()},
        "no part of plain LoRA",
    ),
    "a new head": (GOOD | {"score.weight": normal(2, 4)}, "which the base does not have"),
    "a head of another size": (GOOD | {"head.weight": normal(2, 4)}, "belongs to another base"),
    "saved twice": (
        {"head.weight": normal(3, 4), "head.base_layer.weight": normal(3, 4)},
        "saved whole twice",
    ),
    "integer factors": ({k: v.int() for k, v in GOOD.items()}, "factors of I32"),
    "factors are vectors": (
        {"l.0.q.lora_A.weight": normal(R), "l.0.q.lora_B.weight": normal(R)},
        "rank 2 expected",
    ),
}


@pytest.mark.parametrize("name", REFUSED_TENSORS)
def test_tensors_that_are_refused(name: str, tmp_path: Path) -> None:
    tensors, fault = REFUSED_TENSORS[name]
    save_adapter(tmp_path, tensors)
    refused(tmp_path, fault)


def test_quantised_base(tmp_path: Path) -> None:
    save_adapter(tmp_path, GOOD)
    origin = MemoryReader({"l.0.q.weight": torch.zeros(6, 4, dtype=torch.int8)})
    with pytest.raises(WeftError, match="not a quantised one"):
        AdapterReader(tmp_path, origin)


def test_files_that_are_missing(tmp_path: Path) -> None:
    save_adapter(tmp_path, GOOD)
    tensors = tmp_path / "adapter_model.safetensors"
    tensors.rename(tmp_path / "adapter_model.bin")
    refused(tmp_path, "weft never opens pickles")
    (tmp_path / "adapter_model.bin").unlink()
    refused(tmp_path, "no such file")
    (tmp_path / "adapter_config.json").write_text('{"r": 1, "r": 2}')
    refused(tmp_path, "occurs twice")
    (tmp_path / "adapter_config.json").write_text(" " * (2**20 + 1))
    refused(tmp_path, "limit")
    (tmp_path / "adapter_config.json").unlink()
    refused(tmp_path, "no such file")


def test_keys_of_another_writer(tmp_path: Path) -> None:
    save_adapter(tmp_path, {})
    save_file({"q.lora_A.weight": normal(R, 4)}, tmp_path / "adapter_model.safetensors")
    refused(tmp_path, "does not begin with 'base_model.model.'")


def test_identity_tells_adapters_apart(tmp_path: Path) -> None:
    found = []
    for number, (tensors, config) in enumerate(
        [(GOOD, {}), (GOOD, {"lora_alpha": 8}), (pair("l.1.q", 6, 4), {}), (GOOD, {})]
    ):
        save_adapter(tmp_path / f"{number}", tensors, **config)
        with AdapterReader(tmp_path / f"{number}", MemoryReader(base())) as reader:
            found.append(reader.identity())
    assert found[0] == found[3]
    assert len(set(found)) == 3


def test_closing_leaves_the_base_open(tmp_path: Path) -> None:
    save_adapter(tmp_path, GOOD)
    origin = MemoryReader(base())
    reader = AdapterReader(tmp_path, origin)
    reader.close()
    reader.close()
    with pytest.raises(BadPath, match="closed"):
        reader.read("l.0.q.weight")
    assert origin.read("ids").tolist() == [0, 1, 2]


class TestWriting:
    """What is written is read again, with scale 1."""

    def test_there_and_back(self, tmp_path: Path) -> None:
        factors = {
            "l.0.q": (normal(6, 1), normal(1, 4)),
            "l.1.q": (normal(6, 3), normal(3, 4)),
            "head": (normal(3, 3), normal(3, 4)),
            "embed": (normal(9, 2), normal(2, 4)),
            "conv": (normal(5, 3, 1, 1), normal(3, 3, 2, 2)),
        }
        write_adapter(tmp_path / "a", factors, {"task_type": "CAUSAL_LM"}, embeddings=["embed"])
        with AdapterReader(tmp_path / "a", MemoryReader(base())) as reader:
            assert reader.changed == tuple(sorted(f"{module}.weight" for module in factors))
            for module, (b, a) in factors.items():
                found = reader.factors(f"{module}.weight")
                assert found is not None
                assert torch.equal(found[0], b.flatten(1))
                assert torch.equal(found[1], a.flatten(1))
                assert found[2] == 1.0

    def test_dtype(self, tmp_path: Path) -> None:
        pairs = {"q": (torch.ones(2, 1), torch.ones(1, 2))}
        write_adapter(tmp_path / "a", pairs, dtype=torch.bfloat16)
        with open_checkpoint(tmp_path / "a") as reader:
            assert {spec.dtype for spec in reader.schema} == {"BF16"}

    @pytest.mark.parametrize(
        ("pairs", "config", "fault"),
        [
            ({"q": (torch.ones(2, 2), torch.ones(1, 2))}, {}, "module q"),
            ({"q": (torch.ones(2), torch.ones(1, 2))}, {}, "module q"),
            ({"q": (torch.ones(2, 0), torch.ones(0, 2))}, {}, "at least 1"),
            ({"q": (torch.full((2, 1), 1e6), torch.ones(1, 2))}, {}, "not finite"),
            ({"q": (torch.ones(2, 1), torch.ones(1, 2))}, {"lora_alpha": 3}, "'lora_alpha'"),
            ({"q": (torch.ones(2, 1), torch.ones(1, 2))}, {"use_dora": True}, "'use_dora'"),
        ],
    )
    def test_what_cannot_be_written(
        self,
        pairs: dict[str, tuple[Tensor, Tensor]],
        config: dict[str, int],
        fault: str,
        tmp_path: Path,
    ) -> None:
        with pytest.raises(BadTensor, match=fault):
            write_adapter(tmp_path / "a", pairs, dict(config), torch.float16)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        save_adapter(tmp_path / "a", GOOD)
        with pytest.raises(BadPath, match="exists"):
            write_adapter(tmp_path / "a", {"q": (torch.ones(2, 1), torch.ones(1, 2))})
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_whole_modules_are_written_beside_factors(tmp_path: Path) -> None:
    whole = MemoryReader({"head.weight": normal(3, 4), "norm.bias": normal(4).bfloat16()})
    factors = {"l.1.q": (normal(6, 2), normal(2, 4))}
    write_adapter(tmp_path / "w", factors, whole=whole)
    origin = {**base(), "norm.bias": torch.zeros(4).bfloat16()}
    with AdapterReader(tmp_path / "w", MemoryReader(origin)) as reader:
        assert reader.config.saved == ("head", "norm")
        assert reader.replaced == {"head.weight", "norm.bias"}
        assert reader.embeddings == frozenset()
        assert bits(reader.read("head.weight")) == bits(normal(3, 4))
        assert bits(reader.read("norm.bias")) == bits(normal(4).bfloat16())
        assert reader.held.names == tuple(
            f"base_model.model.{name}"
            for name in ("head.weight", "l.1.q.lora_A.weight", "l.1.q.lora_B.weight", "norm.bias")
        )


@pytest.mark.parametrize(
    ("name", "words"), [("l.1.q.bias", "has factors as well"), ("gate", "there is none")]
)
def test_tensors_that_cannot_be_saved_whole(name: str, words: str, tmp_path: Path) -> None:
    factors = {"l.1.q": (normal(6, 2), normal(2, 4))}
    with pytest.raises(BadTensor, match=words):
        write_adapter(tmp_path / "w", factors, whole=MemoryReader({name: normal(3)}))
    assert list(tmp_path.iterdir()) == []


def test_factors_of_matrices_that_lie_the_other_way_round(tmp_path: Path) -> None:
    """Embeddings and convolutions do not turn."""
    factors = {
        "l.1.q": (normal(6, 2), normal(2, 4)),
        "embed": (normal(9, 2), normal(2, 4)),
        "conv": (normal(5, 2, 1, 1), normal(2, 3, 2, 2)),
    }
    write_adapter(tmp_path / "w", factors, embeddings={"embed"}, transposed=True)
    with AdapterReader(tmp_path / "w", MemoryReader(base())) as reader:
        assert reader.config.transposed
        assert reader.embeddings == {"embed.weight"}
        for module, (b, a) in factors.items():
            found = reader.factors(f"{module}.weight")
            assert found is not None
            left, right, scale = found
            assert scale == 1
            assert torch.equal(left, b.flatten(1))
            assert torch.equal(right, a.flatten(1))
