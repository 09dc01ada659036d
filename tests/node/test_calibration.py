"""BatchNorm moments against a float64 reference that shares no code with them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from tests.node.trainers.weft_test_trainers import Normed
from tests.support.training import tensors_of, worker_of
from weft.node.calibration import Moments, batch_norms, moment_tensors, pooled_moments
from weft.node.errors import BadBatch, NotFinite


def reference(
    state: dict[str, Tensor], batches: list[Tensor]
) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Mean, biased variance and count of both layers of `Normed`, all in float64."""
    p = {name: tensor.double() for name, tensor in state.items()}
    seen: dict[str, list[Tensor]] = {"1": [], "5": []}

    def normed(x: Tensor, layer: str) -> Tensor:
        """Normalise (samples, channels) with its own mean and biased variance."""
        seen[layer].append(x)
        unit = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        return unit * p[f"{layer}.weight"] + p[f"{layer}.bias"]

    for inputs in batches:
        n = len(inputs)
        patches = nn.functional.unfold(inputs.double(), 3)  # (n, 9, 16)
        convolved = p["0.weight"].reshape(3, 9) @ patches + p["0.bias"][:, None]  # (n, 3, 16)
        flat = normed(convolved.movedim(1, 2).reshape(-1, 3), "1")
        hidden = flat.reshape(n, 16, 3).movedim(2, 1).reshape(n, 48)
        normed(hidden @ p["4.weight"].T + p["4.bias"], "5")
    pooled = {layer: torch.cat(parts) for layer, parts in seen.items()}
    return {layer: (x.mean(0), x.var(0, correction=0), len(x)) for layer, x in pooled.items()}


@pytest.fixture(scope="module")
def normed_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("normed") / "model.safetensors"
    worker_of("Normed").initial_model(path, seed=3)
    return path


def test_re_estimated_statistics_are_those_of_the_calibration_set(
    normed_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    assert worker_of("Normed").re_estimate(normed_model, out)
    before, after = tensors_of(normed_model), tensors_of(out)
    expected = reference(before, [inputs for inputs, _ in Normed().calibration()])
    for layer, (mean, var, count) in expected.items():
        torch.testing.assert_close(
            after[f"{layer}.running_mean"].double(), mean, rtol=1e-5, atol=1e-6
        )
        unbiased = var * count / (count - 1)
        torch.testing.assert_close(
            after[f"{layer}.running_var"].double(), unbiased, rtol=1e-5, atol=1e-6
        )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{layer}.running_{what}" for layer in "15" for what in ("mean", "var")}
    assert after["1.num_batches_tracked"] == before["1.num_batches_tracked"] == 0


def test_moments_are_pooled_over_batches_of_unequal_size(
    normed_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "moments.safetensors"
    assert worker_of("Normed").calibrate(normed_model, out)
    found = tensors_of(out)
    assert sorted(found) == sorted(f"{n}.{w}" for n in "15" for w in ("count", "mean", "var"))
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}
    expected = reference(tensors_of(normed_model), [inputs for inputs, _ in Normed().calibration()])
    for layer, (mean, var, count) in expected.items():
        torch.testing.assert_close(found[f"{layer}.mean"], mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[f"{layer}.var"], var, rtol=1e-5, atol=1e-6)
        assert found[f"{layer}.count"].tolist() == [count] * len(mean)


def test_re_estimating_is_repeatable_and_keeps_the_metadata(
    normed_model: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in "ab"]
    for out in outs:
        assert worker_of("Normed").re_estimate(normed_model, out)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    with safe_open(outs[0], "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_watching_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = Normed().model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    pooled_moments(model, Normed().calibration())
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert all(layer.track_running_stats for layer in batch_norms(model).values())
    assert not any(layer._forward_pre_hooks for layer in batch_norms(model).values())


def test_a_layer_that_is_called_twice_pools_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x: Tensor) -> Tensor:
            self.norm(x)
            result: Tensor = self.norm(x + 10)
            return result

    moments = pooled_moments(Twice(), [torch.tensor([[0.0], [2.0]])])["norm"]
    assert (moments.count.item(), moments.mean.item(), moments.var.item()) == (4.0, 6.0, 26.0)
    assert moments.unbiased().item() == pytest.approx(26 * 4 / 3)


def test_the_three_forms_of_a_batch() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, pixels: Tensor) -> Tensor:
            result: Tensor = self.norm(pixels)
            return result

    values = torch.tensor([[1.0], [5.0]])
    for batch in (values, (values, torch.zeros(2)), [values], {"pixels": values}):
        assert pooled_moments(Named(), [batch])["norm"].mean.item() == 3.0


def test_a_model_that_is_a_batch_norm_itself_names_its_moments_without_a_dot() -> None:
    moments = pooled_moments(nn.BatchNorm1d(1), [torch.tensor([[1.0], [5.0]])])
    assert sorted(moment_tensors(moments)) == ["count", "mean", "var"]


@pytest.mark.parametrize("batch", [(), "pixels", ("pixels",)])
def test_other_batches_are_refused(batch: object) -> None:
    with pytest.raises(BadBatch, match=r"calibration\(\) gave a batch of"):
        pooled_moments(nn.BatchNorm1d(1), [batch])  # type: ignore[list-item]


def test_no_batch_at_all_is_refused() -> None:
    with pytest.raises(BadBatch, match="gave no batch"):
        pooled_moments(nn.BatchNorm1d(1), [])


def test_a_nan_in_calibration_names_its_layer() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    with pytest.raises(NotFinite, match="layer 1 saw NaN"):
        pooled_moments(model, [torch.tensor([[1.0], [float("nan")]])])


def test_layers_without_running_statistics_are_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2))
    assert batch_norms(model) == {}


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=6), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_pooling_parts_gives_the_moments_of_the_whole(parts: list[list[float]]) -> None:
    def of(values: list[float]) -> Moments:
        x = torch.tensor(values, dtype=torch.float64)
        count = torch.tensor([float(len(values))], dtype=torch.float64)
        return Moments(count, x.mean()[None], x.var(correction=0)[None])

    pooled = of(parts[0])
    for part in parts[1:]:
        pooled = pooled.pooled_with(of(part))
    whole = of([value for part in parts for value in part])
    assert pooled.count == whole.count
    torch.testing.assert_close(pooled.mean, whole.mean, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(pooled.var, whole.var, rtol=1e-12, atol=1e-9)
