"""`weft merge`: any method, any inputs, one finished model folder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.output import JsonFlag, emit, note, size

if TYPE_CHECKING:
    from weft.checkpoints.job import MergeJob, MergeReport
    from weft.checkpoints.task_vectors import Meter
    from weft.cli.output import Json
    from weft.cli.recipe import Recipe

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)

LEAST_MEMORY = 2**20
EXAMPLE = "Example: weft merge -m ties --set density=0.2 --base base a b c -o merged"

Models = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="MODEL...",
        help="Checkpoints, adapters or deltas: files or folders; at least one.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The model folder to make.")]
Method = Annotated[
    str | None, typer.Option("--method", "-m", help="How to merge; `weft methods` lists all.")
]
Base = Annotated[
    str | None, typer.Option(help="What the models were fine-tuned from: a file or a folder.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A hyperparameter of the method; repeat it."),
]
Weights = Annotated[
    str | None, typer.Option(metavar="W,W,...", help="One weight a model; 1 each without.")
]
Before = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STEP[:KEY=VALUE,...]",
        help="Changes each task vector before the merge, such as dare:density=0.1; repeat it.",
    ),
]
After = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STEP[:KEY=VALUE,...]", help="Changes the merged task vector, such as lines."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(help="A recipe instead of options: YAML or TOML, ours or mergekit's."),
]
Dtype = Annotated[
    str | None, typer.Option(help="Of the output: float32, bfloat16, float16 or float64.")
]
Sums = Annotated[
    str,
    typer.Option(
        help="exact: free of order, to the bit, on a grid of the method's `bound` * 2^-51 (mostly"
        " 1.8e-12); float64 or float32: faster, approximate, for tensors on any scale."
    ),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda or cuda:N.")]
Threads = Annotated[int, typer.Option(min=0, help="Workers; 0: one a core.")]
Memory = Annotated[
    str | None,
    typer.Option(help="The most that work under way may take, such as 4GiB; a quarter of it all."),
]
ShardSize = Annotated[str, typer.Option(help="The most bytes of tensors in one file.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with what a killed merge left in OUT.partial.")
]
MixedDtypes = Annotated[
    bool, typer.Option("--mixed-dtypes", help="Models may have other dtypes than the base.")
]
Prefix = Annotated[
    str, typer.Option(help="Of torch.distributed checkpoints: only tensors that begin with it.")
]

Experts = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Also write what gives each model back from the merged one; emr and consensus.",
    ),
]
AdapterOut = Annotated[
    int | None,
    typer.Option(
        metavar="RANK", min=1, help="Make OUT a PEFT adapter of the base, of this rank at most."
    ),
]


@app.command(epilog=EXAMPLE)
def merge(
    out: Out,
    models: Models = None,
    method: Method = None,
    base: Base = None,
    settings: Set = None,
    weights: Weights = None,
    before: Before = None,
    after: After = None,
    config: Config = None,
    dtype: Dtype = None,
    sums: Sums = "exact",
    device: Device = "cpu",
    threads: Threads = 0,
    memory: Memory = None,
    shard_size: ShardSize = "5GB",
    resume: Resume = False,
    mixed_dtypes: MixedDtypes = False,
    prefix: Prefix = "",
    experts: Experts = None,
    adapter_out: AdapterOut = None,
    as_json: JsonFlag = False,
) -> None:
    """Merge models into one, in bounded memory, whatever their number and size.

    Equal inputs give equal bytes. OUT appears whole or not at all; a merge that was
    killed leaves OUT.partial, and --resume goes on with it.
    """
    from dataclasses import replace

    from weft.cli.merge_around import kept, named, terminable, watched
    from weft.cli.merge_options import recipe_of

    if config is not None:
        _refuse_beside_config(
            {"MODEL": models, "--method": method, "--base": base, "--set": settings}
            | {"--weights": weights, "--before": before, "--after": after}
        )
        recipe = _read(config)
    else:
        recipe = recipe_of(models or [], method, base, settings or [], weights, before, after)
    job = replace(
        _job(recipe, out, dtype, sums, _device(device), prefix),
        threads=threads or os.cpu_count() or 1,
        memory_bytes=memory_allowed(memory),
        shard_bytes=_bytes(shard_size, "--shard-size"),
        resume=resume,
        mixed_dtypes=mixed_dtypes,
    )
    if config is not None:
        _check_filters(recipe, job, config)
    _note_prefix(job)
    with terminable(), kept(job), named(memory), watched(job) as meter:
        report = _run(job, experts, adapter_out, meter)
    emit(report, as_json, _text)


def _run(
    job: "MergeJob", experts: Path | None, adapter_out: int | None, meter: "Meter"
) -> "MergeReport":
    """A model; a model with experts beside it; or an adapter."""
    from weft.checkpoints.job import run_job
    from weft.errors import InvalidInput

    if adapter_out is not None:
        from weft.checkpoints.adapter_job import run_adapter_job

        beside = [(experts is not None, "--experts"), (job.resume, "--resume")]
        for given, option in beside:
            if given:
                raise InvalidInput(f"--adapter-out makes no model folder; leave out {option}")
        return run_adapter_job(job, adapter_out, meter)
    if experts is not None:
        from weft.checkpoints.expert_job import run_expert_job

        return run_expert_job(job, experts, meter)
    return run_job(job, meter)


def _read(path: Path) -> "Recipe":
    from weft.cli.recipe import read_recipe

    recipe = read_recipe(path)
    for line in recipe.notes:
        note(f"{path}: {line}")
    return recipe


def _check_filters(recipe: "Recipe", job: "MergeJob", config: Path) -> None:
    from dataclasses import replace

    from weft.checkpoints.job import tensor_names
    from weft.cli.recipe_filters import check_filters

    check_filters(recipe, lambda: tensor_names(replace(job, mixed_dtypes=True)), config)


def _note_prefix(job: "MergeJob") -> None:
    """Say where a prefix has nothing that it could be taken off."""
    from weft.checkpoints.inputs import Format, format_of

    items = [*([] if job.base is None else [job.base]), *job.models]
    formats = {format_of(path) for item in items for path in item.paths}
    if job.prefix and Format.DISTRIBUTED not in formats:
        note(
            f"--prefix {job.prefix!r} makes no difference: no model is a torch.distributed"
            " checkpoint"
        )


def _job(
    recipe: "Recipe", out: Path, dtype: str | None, sums: str, device: str, prefix: str
) -> "MergeJob":
    from dataclasses import replace

    from weft import __version__
    from weft.checkpoints.job import MergeJob, tensor_names
    from weft.cli.merge_build import Depths, inputs_of, spec_of
    from weft.cli.recipe import dtype_of
    from weft.errors import InvalidInput
    from weft.merging.precision import Precision

    if sums not in list(Precision):
        raise InvalidInput(f"--sums: found {sums!r}, expected {', '.join(Precision)}")
    base, models = inputs_of(recipe)

    def names() -> Sequence[str]:
        return tensor_names(replace(job, mixed_dtypes=True))

    job = MergeJob(
        spec=spec_of(recipe, Precision(sums), Depths(names), device),
        base=base,
        models=models,
        output=out,
        recipe={**_provenance(recipe), **_computed(sums, device), "weft": __version__},
        sidecars=Path(recipe.sidecars),
        dtype=dtype_of(dtype, "--dtype") or recipe.dtype,
        prefix=prefix,
    )
    return job


def _provenance(recipe: "Recipe") -> dict[str, "Json"]:
    """The recipe as the result tells it: names of models, no paths of this machine."""
    from weft.cli.output import plain

    document = plain(recipe)
    kept = document if isinstance(document, dict) else {}
    for gone in ("sidecars", "notes", "slices", "mergekit"):
        kept.pop(gone)
    kept["base"] = recipe.base and Path(recipe.base).name
    kept["models"] = [
        {"name": model.name, "weight": plain(model.weight), "before": plain(model.before)}
        for model in recipe.models
    ]
    return {**kept, "slices": len(recipe.slices)}


def _computed(sums: str, device: str) -> dict[str, "Json"]:
    """What else decides the bytes; devices of one kind are taken for alike."""
    return {"sums": sums, "device": device.partition(":")[0]}


def _refuse_beside_config(given: Mapping[str, object]) -> None:
    from weft.errors import InvalidInput

    found = [name for name, value in given.items() if value]
    if found:
        raise InvalidInput(f"--config says it all; leave out {', '.join(found)}")


def _device(name: str) -> str:
    """The device, if there is such a one here."""
    import torch

    from weft.errors import InvalidInput

    if name == "cpu":
        return name
    kind, _, index = name.partition(":")
    there = torch.cuda.device_count() if kind == "cuda" else 0
    if not (index.isdecimal() or name == "cuda") or int(index or 0) >= there:
        raise InvalidInput(f"--device: found {name!r}; here are cpu and {there} CUDA devices")
    return name


def _bytes(text: str, option: str, least: int = 1) -> int:
    from weft.cli.byte_sizes import byte_size

    return byte_size(text, option, least)


def memory_allowed(text: str | None) -> int:
    """Bytes that work under way may take: as asked for, or a quarter of what is there."""
    if text is not None:
        return _bytes(text, "--memory", LEAST_MEMORY)
    return _memory_here() // 4


def _memory_here() -> int:
    """Of the machine, or what a container may take of it."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return found
    return min(found, int(limit)) if limit.isdecimal() else found


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 10**6 else f"{parameters:,}"


def _text(report: "MergeReport") -> str:
    rate = report.bytes_read / max(report.seconds, 1e-9)
    more = f"experts: {', '.join(report.experts)}\n" if report.experts else ""
    if report.truncation_error is not None:
        more = (
            f"rank {report.adapter_rank}, leaves out {100 * report.truncation_error:.2g} % of the"
            " merged task vector's norm\n"
        )
    return (
        f"{report.output}  {report.tensors} tensors, {_count(report.parameters)} parameters,"
        f" {size(report.bytes_written)}\n"
        f"digest {report.digest}\n{more}"
        f"{report.seconds:.1f} s ({size(rate)}/s read), {report.cpu_seconds:.1f} CPU s,"
        f" at most {size(report.peak_rss_bytes)} of memory"
    )
