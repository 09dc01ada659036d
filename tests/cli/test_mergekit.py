"""mergekit's recipes: real-life texts, what they become, and what they compute.

The formulas that results are compared with are written from what mergekit does, in plain
torch, without a line of weft.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.merging.whole import facts_of
from weft.cli.mergekit_vectors import TASK_VECTORS
from weft.cli.recipe import BadRecipe, Recipe, Slice, Source, Step, read_recipe
from weft.cli.schedule import Schedule
from weft.merging.blocks import Block, merge_block
from weft.merging.method import Transform
from weft.merging.registry import create

NAME, LAYER, LAYERS = "model.layers.1.mlp.up_proj.weight", 1, 3

LINEAR = """
models:
  - model: psmathur/orca_mini_v3_13b
    parameters:
      weight: 1.0
  - model: WizardLM/WizardLM-13B-V1.2
    parameters:
      weight: 0.3
merge_method: linear
dtype: float16
"""

GRADIENT_SLERP = """
slices:
  - sources:
      - model: psmathur/orca_mini_v3_13b
        layer_range: [0, 40]
      - model: garage-bAInd/Platypus2-13B
        layer_range: [0, 40]
merge_method: slerp
base_model: psmathur/orca_mini_v3_13b
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float16
"""

TIES = """
models:
  - model: psmathur/orca_mini_v3_13b
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: garage-bAInd/Platypus2-13B
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: WizardLM/WizardMath-13B-V1.0
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: TheBloke/Llama-2-13B-fp16
parameters:
  normalize: true
  int8_mask: true
dtype: float16
"""

DARE_TIES = """
models:
  - model: mistralai/Mistral-7B-v0.1
    # no parameters necessary for base model
  - model: samir-fama/SamirGPT-v1
    parameters: {density: 0.53, weight: 0.4}
  - model: abacusai/Slerp-CM-mist-dpo
    parameters: {density: 0.53, weight: 0.3}
merge_method: dare_ties
base_model: mistralai/Mistral-7B-v0.1
parameters:
  int8_mask: true
dtype: bfloat16
tokenizer_source: base
"""

FRANKEN = """
slices:
  - sources:
    - model: psmathur/orca_mini_v3_13b
      layer_range: [0, 24]
  - sources:
    - model: garage-bAInd/Platypus2-13B
      layer_range: [20, 40]
merge_method: passthrough
dtype: float16
"""

STOCK = """
models:
  - {model: base}
  - {model: a}
  - {model: b}
merge_method: model_stock
base_model: base
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Recipe]:
    def of(text: str) -> Recipe:
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        return read_recipe(tmp_path / "config.yaml")

    return of


Read = Callable[[str], Recipe]


def constants(recipe: Recipe) -> list[float]:
    return [entry.weight.anchors[0] for entry in recipe.models]


def test_linear(read: Read) -> None:
    recipe = read(LINEAR)
    assert (recipe.method, recipe.base, recipe.dtype) == ("mean", None, "F16")
    assert [entry.path for entry in recipe.models] == [
        "psmathur/orca_mini_v3_13b",
        "WizardLM/WizardLM-13B-V1.2",
    ]
    assert [entry.name for entry in recipe.models] == ["orca_mini_v3_13b", "WizardLM-13B-V1.2"]
    assert constants(recipe) == [1.0, 0.3]
    assert recipe.notes == ()


def test_slerp_with_gradients(read: Read) -> None:
    recipe = read(GRADIENT_SLERP)
    assert (recipe.method, recipe.options, recipe.base) == ("slerp", {}, None)
    orca, platypus = "psmathur/orca_mini_v3_13b", "garage-bAInd/Platypus2-13B"
    assert [entry.path for entry in recipe.models] == [orca, platypus]
    assert recipe.slices == (Slice(sources=(Source(orca, 0, 40), Source(platypus, 0, 40))),)
    t = recipe.scheduled["t"]
    assert t.at("model.layers.39.self_attn.q_proj.weight", 39, 40) == 1.0
    assert t.at("model.layers.39.mlp.up_proj.weight", 39, 40) == 0.0
    assert t.at("model.layers.39.input_layernorm.weight", 39, 40) == 0.5
    assert t.at("lm_head.weight", None, 40) == 0.5


def test_the_base_of_slerp_comes_first(read: Read) -> None:
    text = "merge_method: slerp\nmodels: [{model: b}, {model: a}]\nparameters: {t: 0.3}\n"
    recipe = read(f"{text}base_model: a")
    assert [entry.path for entry in recipe.models] == ["a", "b"]
    assert recipe.options == {"t": 0.3}
    only = read("merge_method: slerp\nmodels: [{model: b}]\nparameters: {t: 0}\nbase_model: a")
    assert [entry.path for entry in only.models] == ["a", "b"]


def test_ties_with_gradients_and_filters(read: Read) -> None:
    recipe = read(TIES)
    assert (recipe.method, recipe.base) == ("ties", "TheBloke/Llama-2-13B-fp16")
    assert recipe.options == {"density": 1.0, "disjoint": "mean", "scale": 1.0}
    first, second, third = recipe.models
    (trim,) = first.before
    assert (trim.name, trim.options) == ("trim", {"extent": "tensor"})
    assert trim.scheduled["density"].anchors == (1.0, 0.7, 0.1)
    assert second.before == (Step(name="trim", options={"extent": "tensor", "density": 0.5}),)
    assert second.weight.at("h.3.mlp", 3, 4) == 1.0
    assert [third.weight.at(f"h.1.{part}", 1, 4) for part in ("mlp.up", "attn")] == [0.5, 0.0]
    assert recipe.notes == ("parameters.int8_mask makes no difference: weft needs no such aid",)


def test_dare_ties(read: Read) -> None:
    recipe = read(DARE_TIES)
    assert recipe.method == "ties"
    assert recipe.options == {"density": 1.0, "disjoint": "sum", "scale": 1.0}
    assert recipe.before == (Step(name="dare", options={"density": 0.53, "rescale": "exact"}),)
    assert [entry.before for entry in recipe.models] == [(), ()]
    assert recipe.sidecars == "mistralai/Mistral-7B-v0.1"
    assert [note.split()[0] for note in recipe.notes] == [
        "parameters.int8_mask",
        "what",
        "tokenizer_source:",
    ]


def test_a_stack_of_two(read: Read) -> None:
    recipe = read(FRANKEN)
    assert (recipe.method, recipe.layers, len(recipe.models)) == ("passthrough", 44, 1)
    assert recipe.slices == (
        Slice(sources=(Source("psmathur/orca_mini_v3_13b", 0, 24),)),
        Slice(sources=(Source("garage-bAInd/Platypus2-13B", 20, 40),)),
    )


def test_model_stock(read: Read) -> None:
    recipe = read(STOCK)
    assert (recipe.method, recipe.base) == ("model_stock", "base")
    assert [entry.path for entry in recipe.models] == ["a", "b"]


def test_an_adapter_beside_its_model(read: Read) -> None:
    text = "merge_method: linear\nmodels: [{model: m+lora/x, parameters: {weight: 1}}]"
    (entry,) = read(text).models
    assert (entry.path, entry.adapter, entry.name) == ("m", "lora/x", "x")


def test_parameters_of_slices(read: Read) -> None:
    text = """
merge_method: task_arithmetic
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: a, layer_range: [2, 4], parameters: {weight: [{filter: mlp, value: [0, 1]}]}}
    parameters: {weight: 0.5}
  - sources:
      - {model: a, layer_range: [0, 3]}
      - {model: base, layer_range: [1, 4]}
parameters: {weight: [0.2, 0.4], lambda: 2}
"""
    recipe = read(text)
    assert recipe.slices == (
        Slice(sources=(Source("a", 2, 4),), base=Source("base", 0, 2)),
        Slice(sources=(Source("a", 0, 3),), base=Source("base", 1, 4)),
    )
    weight = recipe.models[0].weight
    assert [weight.at(f"h.{layer}.mlp.up", layer, 5) for layer in (0, 1)] == [0.0, 1.0]
    assert weight.at("h.0.attn", 0, 5) == 0.5
    found = [weight.at(f"h.{layer}.mlp.up", layer, 5) for layer in (2, 3, 4)]
    assert found == pytest.approx([0.2, 0.3, 0.4])
    assert weight.at("model.embed_tokens.weight", None, 5) == 0.5
    assert weight.at("lm_head.weight", None, 5) == 0.2
    assert recipe.options == {"scale": 2.0}


def test_where_a_parameter_of_no_use_is_told(read: Read) -> None:
    text = """
merge_method: slerp
base_model: a
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {t: 0.1}}]
parameters: {t: 0.5, normalize: true}
dtype: float32
out_dtype: bfloat16
tokenizer: {source: b}
"""
    recipe = read(text)
    assert (recipe.options, recipe.dtype, recipe.sidecars) == ({"t": 0.5}, "BF16", "b")
    assert list(recipe.notes[:4]) == [
        "models[0].parameters.weight makes no difference: slerp does not read it",
        "models[1].parameters.t makes no difference: it is read from the top only",
        "parameters.normalize makes no difference: slerp does not read it",
        "dtype makes no difference: weft computes in float32 or float64",
    ]
    assert recipe.notes[4].startswith("tokenizer.source: tokenizer files come from b;")


# What mergekit computes of one tensor, from its models by path.

Models = Mapping[str, Tensor]
BASE, A, B, C = "base", "a", "b", "c"


def models_of(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(6, 50, generator=generator, dtype=torch.float64)
    moved = {
        path: base + scale * torch.randn(6, 50, generator=generator, dtype=torch.float64)
        for path in (A, B, C)
    }
    return {BASE: base, **moved}


def weighted(vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([w * v for w, v in zip(weights, vectors, strict=True)])


def elected(
    vectors: Sequence[Tensor], weights: Sequence[float], normalize: bool, scale: float = 1.0
) -> Tensor:
    parts = weighted(vectors, weights)
    majority = torch.where(parts.sum(0) >= 0, 1.0, -1.0)
    agree = (parts.sign() == majority).double()
    total = (parts * agree).sum(0)
    shape = (len(vectors), *[1] * vectors[0].ndim)
    divisor = (torch.tensor(weights, dtype=torch.float64).view(shape) * agree).sum(0)
    divisor[divisor == 0] = 1
    return scale * (total / divisor if normalize else total)


def largest(vector: Tensor, density: float) -> Tensor:
    kept = torch.zeros(vector.numel(), dtype=vector.dtype)
    kept[vector.abs().flatten().argsort(descending=True)[: int(density * vector.numel())]] = 1
    return vector * kept.view(vector.shape)


def middle(vector: Tensor, density: float, gamma: float) -> Tensor:
    count = vector.numel()
    top = int(gamma * count)
    bottom = count - int(density * count) - top
    top, bottom = (top + bottom, 0) if bottom < 0 else (top, bottom)
    kept = torch.zeros(count, dtype=vector.dtype)
    kept[vector.abs().flatten().argsort()[bottom : count - top]] = 1
    return vector * kept.view(vector.shape)


def vectors_of(m: Models) -> list[Tensor]:
    return [m[path] - m[BASE] for path in (A, B, C)]


def ties(m: Models, weights: Sequence[float], normalize: bool) -> Tensor:
    kept = [largest(d, share) for d, share in zip(vectors_of(m), (0.5, 0.3, 1.0), strict=True)]
    return m[BASE] + elected(kept, weights, normalize, 0.7)


def breadcrumbs(m: Models, *, elects: bool) -> Tensor:
    kept = [middle(d, 0.6, gamma) for d, gamma in zip(vectors_of(m), (0.1, 0.01, 0.7), strict=True)]
    weights = (0.5, -0.25, 1.0)
    merged = elected(kept, weights, False) if elects else weighted(kept, weights).sum(0)
    return m[BASE] + merged


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    angle = torch.arccos((a * b).sum() / (a.norm() * b.norm()))
    parts = torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b
    merged: Tensor = parts / torch.sin(angle)
    return merged


def ram(m: Models) -> Tensor:
    vectors = torch.stack(vectors_of(m))
    changed = (vectors.abs() > 0.8).double()
    return m[BASE] + (vectors * changed).sum(0) / changed.sum(0).clamp(min=1)


def model_stock(m: Models) -> Tensor:
    # Three task vectors that share a direction: their cosines are above zero.
    vectors = vectors_of(m)
    pairs = [(0, 1), (0, 2), (1, 2)]
    mean = sum(
        float((vectors[i] * vectors[j]).sum() / (vectors[i].norm() * vectors[j].norm())) / 3
        for i, j in pairs
    )
    t = 3 * mean / (1 + 2 * mean)
    return t * (m[A] + m[B] + m[C]) / 3 + (1 - t) * m[BASE]


def sce(m: Models) -> Tensor:
    vectors = torch.stack(vectors_of(m))
    energies = vectors.square().mean((1, 2))
    agree = (vectors.sign() == torch.where(vectors.sum(0) >= 0, 1.0, -1.0)).double()
    shares = energies.view(3, 1, 1) / energies.sum() * agree
    return m[BASE] + (vectors * shares).sum(0) / shares.sum(0).clamp(min=1e-6)


def multislerp(m: Models) -> Tensor:
    vectors, weights = vectors_of(m), (0.2, 0.3, 0.5)
    mean = torch.stack([w * v / v.norm() for w, v in zip(weights, vectors, strict=True)]).sum(0)
    length = sum(w * float(v.norm()) for w, v in zip(weights, vectors, strict=True))
    direction: Tensor = mean / mean.norm()
    return m[BASE] + direction * length


def written(method: str, of_models: str = "", of_all: str = "", base: bool = True) -> str:
    """A recipe of three models; `of_models` by bars: each model's own parameters."""
    own = of_models.split("|") if of_models else ["", "", ""]
    rows = [
        f"  - {{model: {path}, parameters: {{{said}}}}}"
        for path, said in zip((A, B, C), own, strict=True)
    ]
    lines = [f"merge_method: {method}", "models:", *rows, f"parameters: {{{of_all}}}"]
    return "\n".join([*lines, f"base_model: {BASE}"] if base else lines)


TIES_OWN = "weight: 0.5, density: 0.5|weight: 0.25, density: 0.3|weight: 2"
CRUMBS = "weight: 0.5, gamma: 0.1|weight: -0.25|weight: 1, gamma: 0.7"
THREE_TO_ONE = (
    "models: [{model: a, parameters: {weight: 3}}, {model: b, parameters: {weight: 1}}]\n"
)
WEIGHTS = "weight: 0.2|weight: [0, 0.6]|weight: [{filter: mlp, value: 0.5}, {value: 9}]"

COMPUTED: dict[str, tuple[str, Callable[[Models], Tensor]]] = {
    "linear": (
        written("linear", WEIGHTS, base=False),
        lambda m: 0.2 * m[A] + 0.3 * m[B] + 0.5 * m[C],
    ),
    "linear of other weights": (
        written("linear", "weight: 1|weight: 3|weight: 0", base=False),
        lambda m: (m[A] + 3 * m[B]) / 4,
    ),
    "task_arithmetic": (
        written("task_arithmetic", "weight: 0.5|weight: -0.25|weight: [0, 1]", "lambda: 0.5"),
        lambda m: m[BASE] + 0.5 * weighted(vectors_of(m), (0.5, -0.25, 0.5)).sum(0),
    ),
    "task_arithmetic, normalized": (
        written("task_arithmetic", "weight: 1|weight: 2|weight: 1", "normalize: 1, lambda: 0.5"),
        lambda m: m[BASE] + 0.5 * weighted(vectors_of(m), (0.25, 0.5, 0.25)).sum(0),
    ),
    "task_arithmetic, normalized by tensor": (
        written("task_arithmetic", "weight: 1|weight: [0, 4]|weight: 1", "normalize: true"),
        lambda m: m[BASE] + weighted(vectors_of(m), (0.25, 0.5, 0.25)).sum(0),
    ),
    "task_arithmetic, weights that cancel": (
        written("task_arithmetic", "weight: 1|weight: -2|weight: 1", "normalize: true"),
        lambda m: m[BASE] + weighted(vectors_of(m), (1, -2, 1)).sum(0),
    ),
    "ties": (
        written("ties", TIES_OWN, "lambda: 0.7"),
        lambda m: ties(m, (0.5, 0.25, 2.0), True),
    ),
    "ties, not normalized": (
        written("ties", TIES_OWN, "lambda: 0.7, normalize: false"),
        lambda m: ties(m, (0.5, 0.25, 2.0), False),
    ),
    "ties of negative weights": (
        written("ties", TIES_OWN.replace("0.25", "-1"), "lambda: 0.7, normalize: false"),
        lambda m: ties(m, (0.5, -1.0, 2.0), False),
    ),
    "breadcrumbs": (
        written("breadcrumbs", CRUMBS, "density: 0.6"),
        lambda m: breadcrumbs(m, elects=False),
    ),
    "breadcrumbs_ties": (
        written("breadcrumbs_ties", CRUMBS, "density: 0.6"),
        lambda m: breadcrumbs(m, elects=True),
    ),
    "dare that drops nothing": (
        written("dare_linear", "weight: 1|weight: 1|weight: 1", "density: 1.0"),
        lambda m: m[BASE] + sum(vectors_of(m)),
    ),
    "slerp": (
        "merge_method: slerp\nbase_model: base\nmodels: [{model: a}]\nparameters: {t: [0, 0.8]}",
        lambda m: slerp(m[BASE], m[A], 0.4),
    ),
    "nuslerp": (
        f"merge_method: nuslerp\n{THREE_TO_ONE}",
        lambda m: slerp(m[A], m[B], 0.25),
    ),
    "nuslerp with a base": (
        f"merge_method: nuslerp\nbase_model: base\n{THREE_TO_ONE}",
        lambda m: m[BASE] + slerp(m[A] - m[BASE], m[B] - m[BASE], 0.25),
    ),
    "multislerp": (
        written("multislerp", "weight: 2|weight: 3|weight: 5"),
        multislerp,
    ),
    "ram": (written("ram", "", "epsilon: 0.8"), ram),
    "model_stock": (written("model_stock"), model_stock),
    "sce": (written("sce"), sce),
}


def settled(options: Mapping[str, object], scheduled: Mapping[str, Schedule]) -> dict[str, object]:
    return {**options, **{key: s.at(NAME, LAYER, LAYERS) for key, s in scheduled.items()}}


def transformed(steps: Sequence[Step], delta: Tensor) -> Tensor:
    for step in steps:
        method = create(step.name, **settled(step.options, step.scheduled))
        assert isinstance(method, Transform)
        (facts,) = facts_of([delta], method=method)
        delta = method.apply(NAME, delta, facts)
    return delta


def followed(recipe: Recipe, models: Models) -> Tensor:
    """One tensor merged as a recipe says."""
    base = models[recipe.base] if recipe.base else torch.zeros_like(models[A])
    deltas = [
        transformed((*entry.before, *recipe.before), models[entry.path] - base)
        for entry in recipe.models
    ]
    weights = [entry.weight.at(NAME, LAYER, LAYERS) for entry in recipe.models]
    method = create(recipe.method, **settled(recipe.options, recipe.scheduled))
    shape = tuple(base.shape)
    block = Block(name=NAME, tensor_shape=shape, shape=shape, base=base if recipe.base else None)
    return base + merge_block(method, block, deltas, facts_of(deltas, weights, method))


@pytest.mark.parametrize("case", COMPUTED)
def test_a_recipe_gives_what_mergekit_computes(case: str, read: Read) -> None:
    text, formula = COMPUTED[case]
    models = models_of(3)
    if case == "model_stock":
        models = {path: t + (path != BASE) * 2.0 for path, t in models.items()}
    found = followed(read(text), models)
    torch.testing.assert_close(found, formula(models), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", TASK_VECTORS)
def test_every_method_on_task_vectors_is_made_of_registered_ones(name: str, read: Read) -> None:
    recipe = read(written(name, "weight: 1|weight: 1|weight: 1", "density: 0.5"))
    for step in recipe.before:
        create(step.name, **step.options)
    create(recipe.method, **recipe.options)
    kind = TASK_VECTORS[name]
    assert [step.name for step in recipe.before] == ([kind.step] if kind.step else [])
    assert recipe.method == ("ties" if kind.elects else "task_arithmetic")


@pytest.mark.parametrize("name", ["karcher", "ramplus_tl", "ram", "sce", "model_stock"])
def test_the_others_are_registered_too(name: str, read: Read) -> None:
    recipe = read(written(name))
    create(recipe.method, **recipe.options)


def test_karcher_counts_the_base_among_its_models(read: Read) -> None:
    recipe = read(written("karcher", of_all="max_iter: 20"))
    assert [entry.path for entry in recipe.models] == [A, B, C, BASE]
    assert recipe.base is None
    assert recipe.options == {"iterations": 20, "tolerance": 1e-5}


def test_ramplus(read: Read) -> None:
    recipe = read(written("ramplus_tl", of_all="r: 0.5"))
    assert recipe.method == "ram_plus"
    assert recipe.options == {"rate": 0.5, "ceiling": 0.2, "threshold": 1e-5}


def test_keys_that_make_no_difference_are_told(read: Read) -> None:
    found = read(
        "name: mine\nrandom_seed: 7\nallow_crimes: true\nmerge_method: linear\n"
        "models: [{model: a, parameters: {weight: 1}}]\n"
    )
    assert [line.partition(":")[0] for line in found.notes] == [
        "name makes no difference",
        "random_seed makes no difference",
        "allow_crimes makes no difference",
    ]


def test_della(read: Read) -> None:
    recipe = read(written("della", "weight: 1|weight: 1|weight: 1", "density: 0.4, epsilon: 1e-1"))
    assert recipe.before == (Step(name="della", options={"density": 0.4, "epsilon": 0.1}),)
    assert recipe.options["disjoint"] == "mean"
    assert sum("L1 norm" in note for note in recipe.notes) == 1


EACH = "weight: 1|weight: 1|weight: 1"
TWO = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"

REFUSED = {
    "unknown method": (
        written("arcee_fusion"),
        "merge_method: mergekit's 'arcee_fusion' is not read; expected ",
    ),
    "typo in the method": (written("tise"), "merge_method: mergekit's 'tise' is not read; did you"),
    "modules": ("merge_method: linear\nmodules: {text: {}}", "modules: models of several modules"),
    "template": ("merge_method: linear\nchat_template: auto", "chat_template: no template is writ"),
    "key": (
        "merge_method: linear\nmodel: []",
        "recipe: unknown key 'model'; did you mean 'models'",
    ),
    "models and slices": (
        f"merge_method: linear\n{TWO}slices: [{{sources: []}}]",
        "models, slices: found both, expected one of them",
    ),
    "neither": ("merge_method: linear", "models, slices: found neither, expected one of them"),
    "no weight": (
        written("linear", "weight: 1|weight: 1|density: 1", base=False),
        "parameter 'weight' of model c is missing; linear needs it",
    ),
    "weight of some": (
        written("linear", "weight: 1|weight: 1|weight: [{filter: mlp, value: 1}]", base=False),
        "parameter 'weight' of model c: no value for tensors that no filter fits",
    ),
    "no t": (f"merge_method: slerp\nbase_model: a\n{TWO}", "parameter 't' is missing; slerp needs"),
    "unknown parameter": (
        written("linear", "wieght: 1|weight: 1|weight: 1"),
        "models[0].parameters.wieght: unknown parameter; did you mean 'weight'?",
    ),
    "weight": (
        written("linear", "weight: x|weight: 1|weight: 1"),
        "models[0].parameters.weight: found 'x', expected a number",
    ),
    "no base": (written("ties", EACH, base=False), "base_model is missing; ties needs it"),
    "only the base": (
        "merge_method: ties\nbase_model: a\nmodels: [{model: a}]",
        "models: none but the base_model, and ties needs one or more",
    ),
    "twice": (
        "merge_method: linear\nmodels: [{model: a}, {model: a}]",
        "models[1].model: a is there twice; give it once",
    ),
    "revision": (
        "merge_method: linear\nmodels: [{model: org/a@main}]",
        "models[0].model: 'org/a@main' names a revision; download it",
    ),
    "two adapters": (
        "merge_method: linear\nmodels: [{model: a+b+c}]",
        "models[0].model: found 'a+b+c', expected path or path+adapter",
    ),
    "model as a table": (
        "merge_method: linear\nmodels: [{model: {path: a}}]",
        "models[0].model: found {'path': 'a'}, expected a path",
    ),
    "base with an adapter": (
        "merge_method: ties\nbase_model: a+x\nmodels: [{model: b}]",
        "base_model: a+x has an adapter; merge it into a folder first",
    ),
    "linear that is not a mean": (
        written("linear", EACH, "normalize: false", base=False),
        "parameters.normalize: linear without it is read only where",
    ),
    "flag": (
        written("ties", EACH, "normalize: 0.5"),
        "parameters.normalize: found 0.5, expected t",
    ),
    "negative": (
        written("ties", "weight: 1|weight: [1, -1]|weight: 1"),
        "parameter 'weight' of model b: below zero, which ties reads otherwise with normalize",
    ),
    "ties rescaled": (
        written("ties", EACH, "rescale: true, density: 0.5"),
        "parameters.rescale: ties with it is not read; set it to false",
    ),
    "della not rescaled": (
        written("della", EACH, "rescale: false, density: 0.5"),
        "parameters.rescale: della without it is not read",
    ),
    "lambda of a mean by tensor": (
        written("task_arithmetic", EACH[:-1] + "[0, 1]", "normalize: true, lambda: 2"),
        "parameters.lambda: not with normalize and weights that vary",
    ),
    "slerp of three": (
        written("slerp", of_all="t: 0.5"),
        "models: found 3 besides the base_model, slerp needs one",
    ),
    "nuslerp of three": (written("nuslerp", EACH), "models: found 3 besides any base_model, nusl"),
    "nuslerp by tensor": (
        "merge_method: nuslerp\n" + THREE_TO_ONE.replace("3", "[0, 1]"),
        "parameter 'weight': varies from tensor to tensor; nuslerp takes numbers",
    ),
    "nuslerp by rows": (
        f"merge_method: nuslerp\n{TWO}parameters: {{nuslerp_row_wise: true}}",
        "parameters: nuslerp by rows or columns is not read",
    ),
    "multislerp": (
        written("multislerp", EACH, "normalize_weights: false"),
        "parameters.normalize_weights: multislerp without it is read only",
    ),
    "karcher": (written("karcher", of_all="max_iter: 2.5"), "parameters.max_iter: found 2.5, exp"),
    "karcher by tensor": (
        written("karcher", of_all="tol: [0, 1]"),
        "parameters.tol: varies, and karcher takes one number",
    ),
    "filter_wise": (
        written("model_stock", of_all="filter_wise: true"),
        "parameters.filter_wise: model_stock takes whole tensors; set it to false",
    ),
    "stock of one": (
        "merge_method: model_stock\nbase_model: a\nmodels: [{model: b}]",
        "models: found 1 besides the base_model, model_stock needs two",
    ),
    "copy of two": (f"merge_method: passthrough\n{TWO}", "models: found 2, passthrough needs one"),
    "scaled copy": (
        "merge_method: passthrough\nmodels: [{model: a, parameters: {scale: 0.5}}]",
        "models[0].parameters.scale: passthrough copies a; remove it",
    ),
    "dtype": (f"merge_method: linear\n{TWO}dtype: int4", "dtype: found 'int4', expected float32"),
    "union": (
        f"merge_method: linear\n{TWO}tokenizer_source: union",
        "tokenizer_source: 'union' builds a new vocabulary, which weft does not",
    ),
    "tokenizer by default": (
        f"merge_method: linear\n{TWO}tokenizer: {{}}",
        "tokenizer.source: 'union' builds",
    ),
    "tokens": (
        f"merge_method: linear\n{TWO}tokenizer: {{source: a, tokens: {{x: {{}}}}}}",
        "tokenizer.tokens: tokenizers are not changed; remove it",
    ),
    "tokenizer of no base": (
        f"merge_method: linear\n{TWO}tokenizer_source: base",
        "tokenizer_source: 'base', and there is no base_model",
    ),
    "two tokenizers": (
        f"merge_method: linear\n{TWO}tokenizer_source: a\ntokenizer: {{source: a}}",
        "tokenizer, tokenizer_source: found both",
    ),
}

CUT = "merge_method: {}\nbase_model: base\nparameters: {{weight: 1, t: 0}}\nslices:\n"
SOURCES = "  - sources: [{{model: {}, layer_range: {}}}, {{model: {}, layer_range: {}}}]\n"


def sliced(method: str, *rows: tuple[str, str, str, str]) -> str:
    return CUT.format(method) + "".join(SOURCES.format(*row) for row in rows)


REFUSED_SLICES = {
    "lengths": (
        sliced("ties", ("base", "[0, 2]", "a", "[0, 3]")),
        "slices[0].sources: 2 of base, 3 of a, expected as many layers of each",
    ),
    "range": (
        sliced("ties", ("base", "[0, 2]", "a", "2")),
        "slices[0].sources[1].layer_range: found 2, expected [first, stop]",
    ),
    "base left out": (
        sliced("ties", ("b", "[0, 2]", "a", "[0, 2]")),
        "slices[0].sources: the base_model base is not among them",
    ),
    "other models": (
        sliced("ties", ("base", "[0, 2]", "a", "[0, 2]"), ("base", "[2, 4]", "b", "[2, 4]")),
        "slices[1].sources: a, b not in every slice; all but passthrough need the same",
    ),
    "copy of two": (
        sliced("passthrough", ("a", "[0, 2]", "b", "[0, 2]")),
        "slices[0].sources: found 2, passthrough needs one",
    ),
    "adapter": (
        sliced("ties", ("base", "[0, 2]", "a+x", "[0, 2]")),
        "slices[0].sources[1].model: a+x has an adapter; merge it into a folder first",
    ),
    "no sources": (
        "merge_method: ties\nslices: [{sources: []}]",
        "slices[0].sources: none, expected as many layers of each",
    ),
    "another base": (
        "merge_method: ties\nbase_model: a\nslices: [{base_model: b, sources: []}]",
        "slices[0].base_model: another base than the recipe's is not read",
    ),
    "residual": (
        "merge_method: ties\nslices: [{residual_weight: 1, sources: []}]",
        "slices[0].residual_weight: not read; remove it",
    ),
    "a filter for a layer": (
        sliced("ties", ("base", "[0, 2]", "a", "[1, 3]")).replace(
            "weight: 1", "weight: [{filter: layers.1., value: 2}, {value: 1}]"
        ),
        "parameter 'weight': the filter 'layers.1.' names a layer, which is not followed",
    ),
    "flags that differ": (
        sliced("ties", ("base", "[0, 2]", "a", "[0, 2]"), ("base", "[2, 4]", "a", "[2, 4]"))
        + "    parameters: {normalize: false}\n",
        "parameters.normalize: true in one slice and false in another",
    ),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [*REFUSED.values(), *REFUSED_SLICES.values()],
    ids=[*REFUSED, *REFUSED_SLICES],
)
def test_what_cannot_be_honoured_is_refused(
    text: str, expected: str, read: Read, tmp_path: Path
) -> None:
    with pytest.raises(BadRecipe) as got:
        read(text)
    message = str(got.value).removeprefix(f"{tmp_path / 'config.yaml'}: ")
    assert message.startswith(expected)
    assert "\n" not in message
    assert len(message) < 400
