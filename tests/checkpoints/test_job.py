"""Merges of files: what goes in, what comes out, what is refused before a tensor is read."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoints.crafted import bits
from tests.checkpoints.folders import save_adapter, save_distributed
from tests.checkpoints.merges import added, assert_close, combine, some_models, task_vectors
from tests.checkpoints.outputs import around, tree
from weft.checkpoints.delta_folders import write_delta
from weft.checkpoints.engine import MergeSpec
from weft.checkpoints.errors import (
    BadPath,
    DiskFull,
    MissingCheckpoint,
    OtherPlan,
    SchemaMismatch,
    WrongBase,
)
from weft.checkpoints.inputs import model_digest
from weft.checkpoints.job import (
    Input,
    LayersOf,
    MergeJob,
    MergeReport,
    bytes_to_read,
    run_job,
    tensor_names,
)
from weft.checkpoints.reader import MemoryReader, open_checkpoint
from weft.checkpoints.task_vectors import Meter
from weft.merging.errors import BadOption, CannotMerge, NonFinite
from weft.merging.methods.consensus import Consensus
from weft.merging.methods.dare import Dare
from weft.merging.methods.lines import Lines
from weft.merging.methods.mean import Mean
from weft.merging.methods.ties import Ties
from weft.merging.precision import Precision

CONFIG = '{\n  "model_type": "tiny",\n  "torch_dtype": "float32"\n}\n'
CALLED = ("b", "c", "a")


def save(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    base, models = some_models()
    save(tmp_path / "base", base)
    (tmp_path / "base" / "config.json").write_text(CONFIG)
    for name, model in zip(CALLED, models, strict=True):
        save(tmp_path / name, model)
    return tmp_path


def job_of(folder: Path, spec: MergeSpec | None = None, **changes: Any) -> MergeJob:
    made = MergeJob(
        spec=spec or MergeSpec(method=Mean()),
        base=Input(path=folder / "base", name="base"),
        models=tuple(Input(path=folder / name, name=name) for name in CALLED),
        output=folder / "out",
        recipe={"method": "mean"},
    )
    return replace(made, **changes)


def read(path: Path) -> dict[str, Tensor]:
    with open_checkpoint(path) as reader:
        return {name: reader.read(name) for name in reader.schema.names}


def expected() -> dict[str, Tensor]:
    base, models = some_models()
    return added(base, combine(Mean(), task_vectors(base, models), (1.0, 1.0, 1.0), base))


def test_from_files_to_a_folder(folder: Path) -> None:
    meter = Meter()
    report = run_job(job_of(folder), meter)
    assert_close(read(folder / "out"), expected())
    assert around(folder / "out") == ["out"]
    assert sorted(os.listdir(folder / "out")) == [
        "config.json",
        "model.safetensors",
        "weft.json",
    ]
    assert (folder / "out" / "config.json").read_text() == CONFIG
    assert report.output == folder / "out"
    with open_checkpoint(folder / "out") as reader:
        assert report.digest == model_digest(reader)
    base, _ = some_models()
    assert (report.tensors, report.parameters) == (
        len(base),
        sum(tensor.numel() for tensor in base.values()),
    )
    assert report.bytes_read == meter.total == 4 * sum(t.nbytes for t in base.values())
    sizes = {name: len(data) for name, data in tree(folder / "out").items()}
    assert report.bytes_written == sum(sizes.values()) - sizes["weft.json"]
    assert report.seconds > 0
    assert report.cpu_seconds > 0
    assert report.peak_rss_bytes > 10**7


def test_the_forecast_of_what_is_read_is_near(folder: Path) -> None:
    for spec in (
        MergeSpec(method=Mean()),
        MergeSpec(method=Ties()),
        MergeSpec(method=Consensus()),
    ):
        job = job_of(folder, spec, output=folder / f"out-{type(spec.method).__name__}")
        report = run_job(job)
        headers = 4 * 3000 * spec.passes
        assert 0 <= bytes_to_read(job) - report.bytes_read <= headers


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"),
    [("BF16", torch.bfloat16), ("F16", torch.float16), ("F64", torch.float64)],
)
def test_another_dtype(folder: Path, dtype: str, torch_dtype: torch.dtype) -> None:
    run_job(job_of(folder, dtype=dtype))
    found = read(folder / "out")
    assert {tensor.dtype for tensor in found.values()} == {torch_dtype}
    config = json.loads((folder / "out" / "config.json").read_text())
    assert config["torch_dtype"] == str(torch_dtype).removeprefix("torch.")
    if dtype == "F64":
        return
    # Rounded once, from what float64 has.
    run_job(job_of(folder, dtype="F64", output=folder / "wide"))
    for name, tensor in read(folder / "wide").items():
        assert bits(tensor.float().to(torch_dtype)) == bits(found[name])


def test_layout_and_threads_leave_no_trace_in_the_digest(folder: Path) -> None:
    reports = [
        run_job(job_of(folder, output=folder / f"out-{place}", **how))
        for place, how in enumerate(
            (
                dict[str, Any](),
                {"shard_bytes": 400},
                {"threads": 3},
                {"memory_bytes": 2**20, "threads": 2},
            )
        )
    ]
    assert len({report.digest for report in reports}) == 1
    assert len(list((folder / "out-1").glob("model-*.safetensors"))) > 1


def test_every_form_of_input_is_taken(folder: Path) -> None:
    base, (one, two, three) = some_models()
    save_distributed(folder / "dcp", {"model": {**one}, "step": 3})
    origin = MemoryReader(base)
    write_delta(folder / "delta", MemoryReader(two), origin, model_digest(origin), "lossless")
    inputs = {"b": folder / "dcp", "c": folder / "delta", "a": folder / "a" / "model.safetensors"}
    job = job_of(
        folder,
        models=tuple(Input(path=path, name=name) for name, path in inputs.items()),
        prefix="model.",
    )
    report = run_job(job)
    again = run_job(job_of(folder, output=folder / "again"))
    assert report.digest == again.digest
    del three


def test_adapters_are_merged_exactly(folder: Path) -> None:
    base, _ = some_models()
    factors = {
        "layers.1.up.lora_A.weight": torch.full((2, 6), 1e-5),
        "layers.1.up.lora_B.weight": torch.ones(11, 2),
    }
    save_adapter(folder / "adapter", factors, target_modules=["up"])
    models = (Input(path=folder / "adapter", name="x"), Input(path=folder / "b", name="b"))
    run_job(job_of(folder, models=models, dtype="F64"))
    name = "layers.1.up.weight"
    other = read(folder / "b")[name].double() - base[name].double()
    # B A alpha / r
    assert torch.allclose(
        read(folder / "out")[name], base[name].double() + (other + 4e-5) / 2, rtol=0, atol=1e-11
    )
    with pytest.raises(WrongBase, match="only together with its base"):
        run_job(job_of(folder, models=models, base=None, output=folder / "other"))


def test_layers_of_models(folder: Path) -> None:
    """`layers.0` and `layers.2` have other tensors here, so only a stack of one kind is had."""
    tensors = {f"layers.{n}.w": torch.full((3,), float(n)) for n in range(4)}
    for name, step in (("p", 0.0), ("q", 10.0)):
        save(folder / name, {key: value + step for key, value in tensors.items()})
    cut = (LayersOf(folder / "p", 0, 2), LayersOf(folder / "q", 1, 4))
    stack = Input(path=folder / "p", name="stack", slices=cut)
    job = job_of(folder, base=None, models=(stack,))
    assert tensor_names(job) == tuple(f"layers.{n}.w" for n in range(5))
    run_job(job)
    found = [float(tensor[0]) for tensor in read(folder / "out").values()]
    assert found == [0.0, 1.0, 11.0, 12.0, 13.0]
    other = replace(stack, slices=(LayersOf(folder / "p", 0, 3), LayersOf(folder / "q", 2, 4)))
    with pytest.raises(OtherPlan, match="made by another plan"):
        run_job(replace(job, models=(other,), resume=True))
    with pytest.raises(BadOption, match="cannot take an adapter"):
        run_job(replace(job, models=(replace(stack, adapter=folder / "x"),), output=folder / "n"))


def test_the_same_again_is_done_already(folder: Path) -> None:
    first = run_job(job_of(folder))
    with pytest.raises(BadPath, match=r"exists.*--resume takes it as done"):
        run_job(job_of(folder))
    again = run_job(job_of(folder, resume=True))
    assert (again.digest, again.bytes_read, again.bytes_written) == (first.digest, 0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": {"method": "mean", "weights": [1, 2, 3]}},
        {"dtype": "BF16"},
        {"shard_bytes": 300},
        {"base": None},
    ],
    ids=str,
)
def test_another_plan_does_not_go_on(folder: Path, changes: dict[str, Any]) -> None:
    run_job(job_of(folder))
    with pytest.raises(OtherPlan, match="made by another plan"):
        run_job(job_of(folder, resume=True, **changes))


def test_what_is_another_about_the_inputs_is_said_in_words(folder: Path) -> None:
    job = job_of(folder, resume=True)
    run_job(job)
    turned = replace(job, models=job.models[::-1])
    with pytest.raises(OtherPlan, match=r"in another order: base, b, c, a there and base, a, c, b"):
        run_job(turned)
    with pytest.raises(OtherPlan, match=r"other ones: base, b, c, a there and base, b now"):
        run_job(replace(job, models=job.models[:1]))
    (folder / "a" / "new").touch()
    with pytest.raises(OtherPlan, match=rf"another plan: {folder}/a/new has changed since; "):
        run_job(job)
    os.utime(folder / "c" / "model.safetensors", ns=(1, 1))
    with pytest.raises(OtherPlan, match=rf": {folder}/c/model.safetensors has changed since; "):
        run_job(job)
    record = json.loads((folder / "out" / "weft.json").read_text())
    strange: list[Any] = [[{}], [{"reads": 1}], {"a": 1}, 7, [7] * 4]
    for there in strange:
        record["plan"]["inputs"] = there
        (folder / "out" / "weft.json").write_text(json.dumps(record))
        with pytest.raises(OtherPlan, match=r"another plan: plan\.inputs"):
            run_job(job)


def test_an_input_that_was_written_again_is_another_plan(folder: Path) -> None:
    run_job(job_of(folder))
    path = folder / "c" / "model.safetensors"
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))
    with pytest.raises(OtherPlan):
        run_job(job_of(folder, resume=True))


def test_a_shard_behind_an_index_is_part_of_the_plan(folder: Path) -> None:
    run_job(job_of(folder, shard_bytes=400))
    index = folder / "out" / "model.safetensors.index.json"
    models = (Input(path=index, name="x"),)
    run_job(job_of(folder, models=models, output=folder / "second"))
    os.utime(next((folder / "out").glob("model-*.safetensors")), ns=(1, 1))
    with pytest.raises(OtherPlan):
        run_job(job_of(folder, models=models, output=folder / "second", resume=True))


def spoil(folder: Path, name: str, **changes: Tensor) -> None:
    save(folder / name, {**read(folder / name), **changes})


def test_another_architecture_shows_ten_tensors(folder: Path) -> None:
    """Not ten thousand lines."""
    save(folder / "c", {f"t{place:04}": torch.ones(1) for place in range(1000)})
    with pytest.raises(SchemaMismatch) as caught:
        run_job(job_of(folder))
    text = str(caught.value)
    of = f"{folder / 'c'}: 1010 of its tensors are not those of {folder / 'base'}:\n"
    assert text.startswith(of)
    assert text.count("\n") == 11
    assert text.endswith("and 1000 more")
    assert around(folder / "out") == []


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (torch.ones(11, 7), r"layers.1.up.weight is F32\[11, 7\], F32\[11, 6\] expected"),
        (
            torch.ones(11, 6).half(),
            r"base \(--mixed-dtypes merges .*:\n.*F16\[11, 6\], F32\[11, 6\] expected$",
        ),
        (torch.ones(11, 6, dtype=torch.int32), r"layers.1.up.weight is I32\[11, 6\]"),
    ],
)
def test_shapes_kinds_and_dtypes_must_agree(folder: Path, tensor: Tensor, fault: str) -> None:
    spoil(folder, "c", **{"layers.1.up.weight": tensor})
    with pytest.raises(SchemaMismatch, match=fault):
        run_job(job_of(folder))


def test_mixed_dtypes_where_they_are_asked_for(folder: Path) -> None:
    half = read(folder / "c")["layers.1.up.weight"].half()
    spoil(folder, "c", **{"layers.1.up.weight": half})
    run_job(job_of(folder, mixed_dtypes=True))
    found = read(folder / "out")["layers.1.up.weight"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected()["layers.1.up.weight"], rtol=0, atol=1e-3)


def test_what_is_not_a_number_is_named_and_nothing_is_left(folder: Path) -> None:
    bad = read(folder / "c")["layers.1.up.weight"]
    bad[2, 1] = torch.nan
    spoil(folder, "c", **{"layers.1.up.weight": bad})
    for threads in (1, 2):
        with pytest.raises(NonFinite, match=r"c, tensor 'layers.1.up.weight': nan .* element 13,"):
            run_job(job_of(folder, threads=threads))
        assert around(folder / "out") == []


def test_a_place_that_is_taken_is_refused(folder: Path) -> None:
    before = tree(folder / "base")
    with pytest.raises(BadPath, match="base: exists; choose another"):
        run_job(job_of(folder, output=folder / "base"))
    with pytest.raises(BadPath, match=r"lies within .*base, which is merged"):
        run_job(job_of(folder, output=folder / "base" / "merged"))
    with pytest.raises(BadPath, match=r"lies within .*a, which is merged"):
        run_job(job_of(folder, output=folder / "b" / ".." / "a" / "deep" / "out"))
    assert tree(folder / "base") == before


def test_nothing_is_hashed_for_an_output_that_cannot_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that draw want digests of whole models; those come after all that is refused."""
    monkeypatch.setattr("weft.checkpoints.job.model_digest", lambda _: pytest.fail("was read"))
    spec = MergeSpec(method=Mean(), before=(Dare(),))
    (folder / "out").mkdir()
    (folder / "out" / "mine").touch()
    with pytest.raises(BadPath, match="exists"):
        run_job(job_of(folder, spec))
    monkeypatch.setattr("weft.checkpoints.output.free_bytes", lambda _: 1000)
    with pytest.raises(DiskFull, match=r"bytes are needed and 1000 are free"):
        run_job(job_of(folder, spec, output=folder / "other"))
    assert around(folder / "other") == []


def test_draws_go_by_content_and_not_by_place(folder: Path) -> None:
    spec = MergeSpec(method=Mean(), before=(Dare(),))
    one = run_job(job_of(folder, spec))
    os.rename(folder / "b", folder / "renamed")
    models = (
        Input(path=folder / "c", name="1"),
        Input(path=folder / "renamed", name="2"),
        Input(path=folder / "a", name="3"),
    )
    assert run_job(job_of(folder, spec, models=models, output=folder / "2")).digest == one.digest


def test_what_is_missing(folder: Path) -> None:
    for changes in (
        {"base": Input(path=folder / "nowhere", name="base")},
        {"models": (Input(path=folder / "nowhere", name="x"),)},
    ):
        with pytest.raises(MissingCheckpoint, match="nowhere: no such file or folder"):
            run_job(job_of(folder, **changes))
    with pytest.raises(BadOption, match="nothing to merge"):
        run_job(job_of(folder, models=()))
    with pytest.raises(CannotMerge, match="needs a base"):
        run_job(job_of(folder, MergeSpec(method=Ties()), base=None))
    assert around(folder / "out") == []


def test_a_model_of_weight_zero_is_not_read(folder: Path) -> None:
    bad = read(folder / "c")["layers.1.up.weight"] * torch.nan
    spoil(folder, "c", **{"layers.1.up.weight": bad})
    models = tuple(
        Input(path=folder / name, name=name, weight=float(name != "c")) for name in CALLED
    )
    spec = MergeSpec(method=Mean(), before=(Dare(density=1.0),))
    report = run_job(job_of(folder, spec, models=models))
    assert report.bytes_read == 3 * sum(tensor.nbytes for tensor in some_models()[0].values())


def leave_after(folder: Path, shards: int, job: MergeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job and stop it, as a kill would, once it has so many shards."""
    from weft.checkpoints.shard_set import ShardSet

    finished = ShardSet._close
    left = iter(range(shards))

    def close(self: ShardSet, shard: object) -> None:
        finished(self, shard)  # type: ignore[arg-type]
        if next(left, None) is None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardSet, "_close", close)
        with pytest.raises(KeyboardInterrupt):
            run_job(replace(job, resume=True))
    assert around(folder / "out") == ["out.partial"]


@pytest.mark.parametrize("shards", [0, 2, 4])
@pytest.mark.parametrize(
    "spec",
    [
        MergeSpec(method=Mean()),
        MergeSpec(method=Mean(), before=(Lines(), Dare())),
        MergeSpec(method=Ties(), precision=Precision.FLOAT32),
        MergeSpec(method=Mean(), after=(Lines(),)),
    ],
)
def test_going_on_ends_with_the_same_bytes(
    folder: Path, spec: MergeSpec, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_job(job_of(folder, spec, shard_bytes=200, output=folder / "whole"))
    job = job_of(folder, spec, shard_bytes=200)
    leave_after(folder, shards, job, monkeypatch)
    with pytest.raises(BadPath, match="an earlier merge did not finish"):
        run_job(job)
    report = run_job(replace(job, resume=True))
    assert report.digest == whole.digest
    assert tree(folder / "out").keys() == tree(folder / "whole").keys()
    for name, data in tree(folder / "whole").items():
        assert (tree(folder / "out")[name] == data) or name == "weft.json"
    assert around(folder / "out") == ["out"]


def test_the_report_is_what_it_says() -> None:
    assert [*MergeReport.__dataclass_fields__][:9] == [
        *("output", "digest", "tensors", "parameters", "seconds", "cpu_seconds"),
        *("peak_rss_bytes", "bytes_read", "bytes_written"),
    ]


def test_loaded_by_the_library_itself(folder: Path) -> None:
    run_job(job_of(folder))
    assert load_file(folder / "out" / "model.safetensors").keys() == expected().keys()
