"""The torch side of training: a pure function of files and seed, and its refusals."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.training import MODULE, TRAINERS, request_in, tensors_of, worker_of
from weft.checkpoints.errors import SchemaMismatch
from weft.errors import InvalidInput, TrainingFailed
from weft.node.errors import BadTrainer, ModelChanged, NoCalibration, NotFinite, StateCorrupt
from weft.node.training_messages import AlignRequest, ProcessSettings
from weft.node.training_worker import TrainingWorker, seed_everything
from weft.protocol.run import Align


@pytest.fixture
def tiny(tmp_path: Path) -> TrainingWorker:
    worker = worker_of("Tiny")
    worker.initial_model(tmp_path / "model.safetensors", seed=1)
    return worker


def test_the_same_files_and_seed_give_the_same_bytes(tiny: TrainingWorker, tmp_path: Path) -> None:
    first = tiny.train(request_in(tmp_path, 0))
    second_request = request_in(
        tmp_path, 1, model_in="trained-0.safetensors", state_in="state-0.pt"
    )
    tiny.train(second_request)
    model, state = (tmp_path / "trained-1.safetensors"), (tmp_path / "state-1.pt")
    before = model.read_bytes(), state.read_bytes()
    # Another round between, then the same round in this worker and in a new one.
    tiny.train(request_in(tmp_path, 2))
    for worker in (tiny, worker_of("Tiny")):
        model.unlink()
        state.unlink()
        worker.train(second_request)
        assert (model.read_bytes(), state.read_bytes()) == before
    assert first.metrics["round"] == 0.0
    assert first.data_size == 32
    assert first.has_state


def test_another_seed_gives_other_bits(tiny: TrainingWorker, tmp_path: Path) -> None:
    tiny.train(request_in(tmp_path))
    before = tensors_of(tmp_path / "trained-0.safetensors")
    tiny.train(replace(request_in(tmp_path), seed=2))
    after = tensors_of(tmp_path / "trained-0.safetensors")
    assert not torch.equal(before["0.weight"], after["0.weight"])


def test_training_changes_the_model_and_not_its_input(tiny: TrainingWorker, tmp_path: Path) -> None:
    before = (tmp_path / "model.safetensors").read_bytes()
    tiny.train(request_in(tmp_path))
    start, end = (tensors_of(tmp_path / f) for f in ("model.safetensors", "trained-0.safetensors"))
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert list(start) == list(end)
    assert all(not torch.equal(start[name], end[name]) for name in start)


def test_a_fresh_optimizer_keeps_the_rest_of_the_state(
    tiny: TrainingWorker, tmp_path: Path
) -> None:
    tiny.train(request_in(tmp_path, 0))
    kept = request_in(tmp_path, 1, model_in="trained-0.safetensors", state_in="state-0.pt")
    tiny.train(kept)
    going_on = tensors_of(kept.model_out)
    tiny.train(replace(kept, fresh_optimizer=True))
    afresh = tensors_of(kept.model_out)
    state = torch.load(kept.state_out, weights_only=True)
    assert not torch.equal(going_on["0.weight"], afresh["0.weight"])
    assert state["kept"] == 2
    assert state["optimizer"]["state"][0]["step"] == 3  # three steps since it was new


def test_a_round_without_state_starts_without_any(tiny: TrainingWorker, tmp_path: Path) -> None:
    for _ in range(2):  # round 0 done again, after a failure say
        tiny.train(request_in(tmp_path, 0))
        assert torch.load(tmp_path / "state-0.pt", weights_only=True)["kept"] == 1


def test_a_trainer_without_state_is_kept_and_leaves_no_state_file(tmp_path: Path) -> None:
    worker = worker_of("Forgetful")
    worker.initial_model(tmp_path / "model.safetensors", seed=1)
    (tmp_path / "state-0.pt").write_bytes(b"stale")
    results = [worker.train(request_in(tmp_path)) for _ in range(2)]
    assert [result.metrics["rounds"] for result in results] == [1.0, 2.0]
    assert not any(result.has_state for result in results)
    assert not (tmp_path / "state-0.pt").exists()


def test_a_trainer_that_keeps_its_model_is_seeded_and_set_to_its_mode_all_the_same(
    tmp_path: Path,
) -> None:
    worker_of("Cached").initial_model(tmp_path / "model.safetensors", seed=1)
    worker = worker_of("Cached")
    for _ in range(2):  # the first time, building the model draws numbers
        metrics = worker.train(request_in(tmp_path)).metrics
        torch.manual_seed(1000)
        assert metrics == {"draw": float(torch.rand(())), "training": 1}
        assert worker.evaluate(tmp_path / "model.safetensors") == {"gradients": 0, "training": 0}


def test_a_new_model_is_drawn_from_its_seed(tiny: TrainingWorker, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        tiny.initial_model(tmp_path / name, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_facts_say_what_the_trainer_can() -> None:
    tiny, normed = worker_of("Tiny").facts(), worker_of("Normed").facts()
    assert (tiny.evaluates, tiny.calibrates, tiny.keeps_state) == (True, False, True)
    assert (normed.evaluates, normed.calibrates, normed.keeps_state) == (False, True, False)
    assert (tiny.data_size, normed.data_size) == (32, None)
    assert tiny.device == "cpu"


def test_evaluate_measures_a_checkpoint(tiny: TrainingWorker, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    measured = tiny.evaluate(path)
    loaded = tensors_of(path)
    hidden = torch.tanh(torch.ones(1, 4) @ loaded["0.weight"].T + loaded["0.bias"])
    expected = (hidden @ loaded["2.weight"].T + loaded["2.bias"] - 4).abs().item()
    assert measured is not None
    assert measured["error"] == pytest.approx(expected, rel=1e-6)
    worker_of("Normed").initial_model(path, seed=1)
    assert worker_of("Normed").evaluate(path) is None


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (
            "raise",
            TrainingFailed,
            r"round 4: .*:Misbehaving\.train raised ValueError: labels are off second",
        ),
        ("exit", TrainingFailed, r"round 4: .*raised SystemExit: enough"),
        ("nan loss", NotFinite, r"round 4: .*train/Loss = nan; nothing is kept"),
        ("nan parameter", NotFinite, r"round 4: after training: bias holds 1 NaN or infinite"),
        ("reshape", ModelChanged, r"weight is F32\[3, 2\], F32\[2, 2\] expected"),
        ("cast", ModelChanged, r"bias is F16\[2\], F32\[2\] expected"),
        ("metrics", TrainingFailed, r"round 4: .*train returned a list; expected a mapping"),
        ("text metric", TrainingFailed, r"returned 'loss': str; expected a number"),
    ],
)
def test_what_goes_wrong_in_training_is_named_and_nothing_is_written(
    how: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    worker = worker_of("Misbehaving", how=how)
    worker.initial_model(tmp_path / "model.safetensors", seed=1)
    with pytest.raises(error, match=message) as raised:
        worker.train(request_in(tmp_path, 4))
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors"]


def test_a_raised_error_logs_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = worker_of("Misbehaving", how="raise")
    worker.initial_model(tmp_path / "model.safetensors", seed=1)
    with caplog.at_level(logging.ERROR), pytest.raises(TrainingFailed):
        worker.train(request_in(tmp_path))
    assert "weft_test_trainers.py" in caplog.text


def test_a_metric_that_is_no_loss_may_be_undefined(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = worker_of("Misbehaving", how="nan metric")
    worker.initial_model(tmp_path / "model.safetensors", seed=1)
    assert worker.train(request_in(tmp_path)).metrics == {"tensor": 2.5, "int": 3.0}
    assert "auc" in caplog.text


def test_state_that_cannot_be_read_back_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    worker = worker_of("OddState")
    worker.initial_model(tmp_path / "model.safetensors", seed=1)
    place = re.escape("['optimizer']['steps'][1]['rng']")
    with pytest.raises(TrainingFailed, match=f"holds a ndarray at {place}"):
        worker.train(request_in(tmp_path))


def test_state_that_is_no_state_is_corrupt(tiny: TrainingWorker, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"not a state")
    with pytest.raises(StateCorrupt, match="cannot be read"):
        tiny.train(request_in(tmp_path, state_in="state"))


def test_a_checkpoint_of_another_model_is_refused(tiny: TrainingWorker, tmp_path: Path) -> None:
    worker_of("Forgetful").initial_model(tmp_path / "model.safetensors", seed=1)
    with pytest.raises(SchemaMismatch, match=r"model\(\).*0\.bias .* is not part of it"):
        tiny.train(request_in(tmp_path))


def test_a_trainer_that_raised_is_built_anew(tmp_path: Path) -> None:
    worker = worker_of("Forgetful")
    worker.initial_model(tmp_path / "model.safetensors", seed=1)
    assert worker.train(request_in(tmp_path)).metrics["rounds"] == 1.0
    worker_of("Tiny").initial_model(tmp_path / "other", seed=1)
    with pytest.raises(SchemaMismatch):  # not the trainer's doing: it is kept
        worker.train(request_in(tmp_path, model_in="other"))
    assert worker.train(request_in(tmp_path)).metrics["rounds"] == 2.0


def test_a_constructor_that_raises_is_the_trainers_failure() -> None:
    with pytest.raises(TrainingFailed, match="__init__ raised RuntimeError: no data today"):
        worker_of("Misbehaving", how="constructor")


def test_an_unknown_device_is_refused() -> None:
    for device in ("cuda:9", "quantum"):
        settings = ProcessSettings(target=f"{MODULE}:Tiny", folder=TRAINERS, device=device)
        with pytest.raises(InvalidInput, match=f"device '{device}' cannot be used here"):
            TrainingWorker(settings)


def test_a_model_that_is_no_module_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_of("Forgetful")
    trainer = type(worker._built())
    monkeypatch.setattr(trainer, "model", lambda self: {"weight": torch.zeros(1)})
    with pytest.raises(TrainingFailed, match=r"model\(\) gave a dict"):
        worker.initial_model(tmp_path / "model", seed=1)


def test_extra_state_in_a_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Extra(nn.Module):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

        def set_extra_state(self, state: object) -> None: ...

    worker = worker_of("Forgetful")
    monkeypatch.setattr(type(worker._built()), "model", lambda self: Extra())
    with pytest.raises(BadTrainer, match="_extra_state"):
        worker.initial_model(tmp_path / "model", seed=1)


def test_seeds_reach_all_generators() -> None:
    import random

    import numpy as np

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(2**63 + 5)
    first = draw()
    seed_everything(2**63 + 5)
    assert draw() == first
    seed_everything(6)
    assert all(one != two for one, two in zip(draw(), first, strict=True))


def test_re_estimate_and_calibrate_do_nothing_without_batch_norm_or_data(
    tiny: TrainingWorker, tmp_path: Path
) -> None:
    model, out = tmp_path / "model.safetensors", tmp_path / "out"
    assert not tiny.re_estimate(model, out)
    assert not tiny.calibrate(model, out)
    assert not out.exists()


def align(folder: Path, how: Align = "activations") -> AlignRequest:
    return AlignRequest(
        how=how, anchor=folder / "one", models=(folder / "other",), out=(folder / "aligned",)
    )


@pytest.mark.parametrize("how", ["activations", "weights"])
def test_models_of_other_seeds_are_aligned_by_any_process_alike(tmp_path: Path, how: Align) -> None:
    found = []
    for worker in (worker_of("Normed"), worker_of("Normed")):
        for name, seed in (("one", 1), ("other", 2)):
            worker.initial_model(tmp_path / name, seed=seed)
        (moved,) = worker.align(align(tmp_path, how)).moved
        found.append((moved, (tmp_path / "aligned").read_bytes()))
    assert found[0] == found[1]
    before, after = tensors_of(tmp_path / "other"), tensors_of(tmp_path / "aligned")
    for name, tensor in before.items():
        assert torch.equal(after[name].flatten().sort().values, tensor.flatten().sort().values)


def test_what_can_change_places_is_told() -> None:
    """Three channels; what is normalised last are the outputs, and stays where it is."""
    facts = worker_of("Normed").units()
    assert (facts.groups, facts.units, facts.unruled) == (1, 3, ())


def test_a_trainer_without_calibration_data_cannot_align(
    tiny: TrainingWorker, tmp_path: Path
) -> None:
    for ask in (tiny.units, lambda: tiny.align(align(tmp_path))):
        with pytest.raises(NoCalibration, match=r"Tiny has no calibration\(\) to trace .* 'none'"):
            ask()


def test_units_that_are_pinned_stay(tmp_path: Path) -> None:
    (tmp_path / "units.toml").write_text('pin = ["0.weight[0]"]\n')
    settings = ProcessSettings(
        target=f"{MODULE}:Normed",
        folder=TRAINERS,
        device="cpu",
        overrides=tmp_path / "units.toml",
    )
    worker = TrainingWorker(settings)
    for name, seed in (("one", 1), ("other", 2)):
        worker.initial_model(tmp_path / name, seed=seed)
    assert worker.units().units == 0
    assert worker.align(align(tmp_path)).moved == (0.0,)
    assert (tmp_path / "aligned").read_bytes() == (tmp_path / "other").read_bytes()
