"""`weft inspect`: a model in figures, whatever its format; or the groups of its units."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.output import JsonFlag, emit, progress, size
from weft.errors import InvalidInput

if TYPE_CHECKING:
    from weft.checkpoints.blocks import RangeReader
    from weft.checkpoints.inspection import DeltaFacts, Inspection, TensorFacts

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)

LARGEST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DtypeCount:
    """How much of a model has one dtype."""

    tensors: int
    elements: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What is printed; the fields are those of the JSON document.

    Attributes:
        parameters: elements of the tensors that a merge changes.
        largest: names of the tensors with the most elements.
        not_finite: names of the tensors that hold a NaN or an infinity.
        tensors: all of them, where they were asked for.
        ignored: entries of a distributed checkpoint that are no tensors.
    """

    path: Path
    format: str
    tensor_count: int
    parameters: int
    bytes: int
    dtypes: dict[str, DtypeCount]
    digest: str | None
    norm: float
    largest: Sequence[str]
    not_finite: Sequence[str]
    delta: "DeltaFacts | None"
    tensors: "Sequence[TensorFacts] | None"
    ignored: Sequence[str]


Where = Annotated[
    Path | None, typer.Argument(metavar="PATH", help="A checkpoint: a file or a folder.")
]
BaseOption = Annotated[
    Path | None,
    typer.Option("--base", help="Its base: adds the task vector; adapters and deltas need it."),
]
Tensors = Annotated[bool, typer.Option("--tensors", help="List every tensor.")]
NoDigest = Annotated[bool, typer.Option("--no-digest", help="Do not hash the model.")]
Prefix = Annotated[
    str, typer.Option(help="Of torch.distributed checkpoints: only tensors that begin with it.")
]
GroupsOption = Annotated[
    str | None,
    typer.Option(
        "--groups",
        metavar="MODULE:CLASS",
        help="Instead of a checkpoint a trainer: what of its model can change places.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="With --groups: of the trainer; repeat it."),
]
OverridesOption = Annotated[
    Path | None,
    typer.Option("--overrides", help="With --groups: a file that pins and splits groups."),
]


@app.command(epilog="Example: weft inspect finetuned --base base --tensors")
def inspect(
    path: Where = None,
    base: BaseOption = None,
    tensors: Tensors = False,
    no_digest: NoDigest = False,
    prefix: Prefix = "",
    groups: GroupsOption = None,
    option: Settings = None,
    overrides: OverridesOption = None,
    as_json: JsonFlag = False,
) -> None:
    """A model in figures: format, tensors, digest, norms; and its task vector with --base.

    Reads safetensors (one file, or shards), torch.distributed.checkpoint folders, PEFT
    adapters and delta folders. Tensors that hold a NaN or an infinity are named.

    With --groups: the groups of units of a trainer's model, which an aligned merge puts in
    one order, and what stays fixed, and why.
    """
    if groups is not None:
        from weft.cli.inspect_groups import groups_document, groups_text

        _require_alone({"a path": path, "--base": base, "--tensors": tensors, "--prefix": prefix})
        emit(groups_document(groups, option or [], overrides), as_json, groups_text)
        return
    if path is None or option or overrides is not None:
        raise InvalidInput(
            "expected a checkpoint to look at, or --groups MODULE:CLASS"
            if path is None
            else "--option and --overrides go with --groups, found a checkpoint"
        )
    emit(_inspected(path, base, tensors, no_digest, prefix), as_json, _text)


def _require_alone(others: Mapping[str, object]) -> None:
    found = [name for name, value in others.items() if value]
    if found:
        raise InvalidInput(f"--groups looks at a trainer's model, found {found[0]} as well")


def _inspected(
    path: Path, base: Path | None, tensors: bool, no_digest: bool, prefix: str
) -> Document:
    from weft.checkpoints.inputs import open_input
    from weft.checkpoints.inspection import inspect_model

    with ExitStack() as stack:
        origin = None if base is None else stack.enter_context(open_input(base, prefix=prefix))
        reader = stack.enter_context(open_input(path, origin, prefix=prefix))
        passes = 1 if origin is None else 2
        with progress("reading", passes * reader.schema.size_bytes) as advance:
            found = inspect_model(reader, origin, digest=not no_digest, advance=advance)
        return _document(path, reader, found, tensors)


def _document(path: Path, reader: "RangeReader", found: "Inspection", tensors: bool) -> Document:
    from weft.checkpoints.distributed import DistributedReader
    from weft.checkpoints.inputs import describe

    schema = reader.schema
    ordered = sorted(schema, key=lambda spec: (-spec.elements, spec.name))
    return Document(
        path=path,
        format=describe(reader),
        tensor_count=len(schema),
        parameters=sum(spec.elements for spec in schema.parameters),
        bytes=schema.size_bytes,
        dtypes=_dtypes(reader),
        digest=found.digest,
        norm=found.norm,
        largest=[spec.name for spec in ordered[:LARGEST]],
        not_finite=[facts.name for facts in found.not_finite],
        delta=found.delta,
        tensors=found.tensors if tensors else None,
        ignored=reader.ignored if isinstance(reader, DistributedReader) else (),
    )


def _dtypes(reader: "RangeReader") -> dict[str, DtypeCount]:
    found: dict[str, DtypeCount] = {}
    for spec in reader.schema:
        before = found.get(spec.dtype, DtypeCount(tensors=0, elements=0, bytes=0))
        found[spec.dtype] = DtypeCount(
            tensors=before.tensors + 1,
            elements=before.elements + spec.elements,
            bytes=before.bytes + spec.size_bytes,
        )
    return dict(sorted(found.items()))


def _text(document: Document) -> str:
    dtypes = ", ".join(f"{count.tensors} {dtype}" for dtype, count in document.dtypes.items())
    rows = [
        ("tensors", f"{document.tensor_count} ({dtypes})"),
        ("parameters", f"{document.parameters:,}"),
        ("size", size(document.bytes)),
        ("digest", document.digest or "not asked for"),
        ("norm", f"{document.norm:.6g}"),
        ("largest", ", ".join(document.largest)),
        *_delta_rows(document.delta),
        *([("ignored", f"{len(document.ignored)} entries, no tensors")] * bool(document.ignored)),
        *([("NOT FINITE", ", ".join(document.not_finite))] * bool(document.not_finite)),
    ]
    lines = [f"  {label:<14}{value}" for label, value in rows]
    lines += [_tensor_line(facts) for facts in document.tensors or ()]
    return "\n".join([f"{document.path}: {document.format}", *lines])


def _delta_rows(delta: "DeltaFacts | None") -> list[tuple[str, str]]:
    if delta is None:
        return []
    relative = "" if delta.relative is None else f" ({100 * delta.relative:.3g} % of the base's)"
    cuts = [
        (f"  top {100 * density:g} %", f"{cut:.6g} and up") for density, cut in delta.cuts.items()
    ]
    return [
        ("task vector", f"norm {delta.norm:.6g}{relative}"),
        ("  changed", f"{delta.changed:,} elements"),
        *cuts,
    ]


def _tensor_line(facts: "TensorFacts") -> str:
    """Name, dtype and shape, and what is known of the values."""
    shape = "x".join(map(str, facts.shape)) or "scalar"
    parts = [f"{facts.name}  {facts.dtype} {shape}"]
    if facts.norm is not None:
        parts.append(f"norm {facts.norm:.6g}")
    if facts.minimum is not None:
        parts.append(f"{facts.minimum:.6g} to {facts.maximum:.6g}")
    if facts.delta_norm is not None:
        parts.append(f"task vector {facts.delta_norm:.6g}")
    if facts.nan or facts.infinite:
        parts.append(f"{facts.nan} NaN, {facts.infinite} infinite")
    return "  " + "  ".join(parts)
