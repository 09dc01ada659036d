"""What stands in the files of a set of experts; see `experts.py`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import torch
from torch import Tensor

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.contribution import Contribution
from weft.checkpoints.deltas import DeltaReader
from weft.checkpoints.digest import digest_of
from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.errors import BadSchema
from weft.checkpoints.reader import SUFFIX, FileReader
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.writer import TORCH_METADATA
from weft.errors import WeftError
from weft.merging.methods.consensus import Consensus
from weft.merging.methods.emr import Emr
from weft.merging.precision import Precision

VECTOR_NAME: Final = "vector.safetensors"
KIND: Final = "weft"
"""Key of the metadata that says what a file is."""
EXPERT: Final = "expert-1"
VECTOR: Final = "expert-vector-1"
IN_MERGED: Final = "merged"
"""What the metadata says where the merged model itself holds the vector."""

MaskedMethod: TypeAlias = Emr | Consensus


@dataclass(frozen=True, slots=True)
class Origin:
    """A model that the experts of a set stand on, and its digest."""

    reader: RangeReader
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """One file of a set.

    Attributes:
        name: of the contribution.
        weight: not zero.
        schema: of the file.
        metadata: of the file.
        reader: the contribution.
        dtypes: of the tensors that are kept whole, by their names in the model.
    """

    name: str
    weight: float
    schema: Schema
    metadata: Mapping[str, str]
    reader: RangeReader
    dtypes: Mapping[str, torch.dtype]

    @property
    def file_name(self) -> str:
        """Of the file in the set's folder."""
        return file_name(self.name)

    def kept(self) -> Iterator[tuple[str, Iterator[Tensor]]]:
        """Name in the file, and blocks, of the tensors that are kept whole."""
        for name, dtype in self.dtypes.items():
            blocks = self.reader.blocks(name)
            yield f"kept.{name}", (block.to(dtype) for block in blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertPlan:
    """A set of experts.

    Attributes:
        method: of the merge; says how masks are taken.
        precision: of its sums.
        merged: the merged model's tensors.
        contributions: those of a weight other than zero.
        experts: one for each.
        vector: of the vector's file; None where the merged model holds it.
        vector_metadata: of that file.
    """

    method: MaskedMethod
    precision: Precision
    merged: Schema
    contributions: tuple[Contribution, ...]
    experts: tuple[Expert, ...]
    vector: Schema | None
    vector_metadata: Mapping[str, str]


def plan_experts(
    method: MaskedMethod,
    precision: Precision,
    base: Origin,
    merged: Origin,
    contributions: Sequence[Contribution],
    contents: Sequence[str],
) -> ExpertPlan:
    """What the files of a set will be; compares statistics and buffers, reads no parameters.

    Args:
        method: of the merge.
        precision: of its sums.
        base: what the merge was based on.
        merged: what it made.
        contributions: those of a weight other than zero; all in the merged model's shapes.
        contents: their models' digests.

    Raises:
        BadSchema: a contribution's name that is no name of a file, or two that give one.
    """
    require_file_names([item.name for item in contributions])
    schema = merged.reader.schema
    vector = None if _holds_vector(method, base, merged, contributions) else _vector(schema)
    shared = _shared(method, precision, base, merged, IN_MERGED if vector is None else VECTOR_NAME)
    pairs = list(zip(contributions, contents, strict=True))
    parts = sorted([item.name, content, repr(item.weight)] for item, content in pairs)
    shared["set"] = digest_of(json.dumps([shared, parts], sort_keys=True).encode())
    return ExpertPlan(
        method=method,
        precision=precision,
        merged=schema,
        contributions=tuple(contributions),
        experts=tuple(_expert(item, content, merged.reader, shared) for item, content in pairs),
        vector=vector,
        vector_metadata={**shared, KIND: VECTOR},
    )


def _shared(
    method: MaskedMethod, precision: Precision, base: Origin, merged: Origin, vector: str
) -> dict[str, str]:
    """What the metadata of all files of a set says."""
    share = {"share": repr(method.share)} if isinstance(method, Consensus) else {}
    return {
        **TORCH_METADATA,
        "method": "emr" if isinstance(method, Emr) else "consensus",
        "base": base.digest,
        "merged": merged.digest,
        "sums": str(precision),
        "vector": vector,
        **share,
    }


def _expert(
    item: Contribution, content: str, merged: RangeReader, shared: Mapping[str, str]
) -> Expert:
    reader = _seekable(item)
    dtypes = {
        spec.name: TORCH_DTYPES[spec.dtype]
        for spec in merged.schema
        if spec.kind != "parameter" and _differs(spec, reader, merged)
    }
    return Expert(
        name=item.name,
        weight=item.weight,
        schema=expert_schema(merged.schema, dtypes),
        metadata={**shared, KIND: EXPERT, "contribution": item.name, "content": content},
        reader=reader,
        dtypes=dtypes,
    )


def expert_schema(model: Schema, kept: Mapping[str, object]) -> Schema:
    """The tensors of an expert's file."""
    masks = [
        TensorSpec(f"mask.{spec.name}", "U8", (-(-spec.elements // 8),))
        for spec in model.parameters
    ]
    whole = [
        TensorSpec(f"kept.{spec.name}", spec.dtype, spec.shape)
        for spec in model
        if spec.name in kept
    ]
    return Schema((*masks, *whole, TensorSpec("scale", "F64", ())))


def file_name(contribution: str) -> str:
    """Of the file of a contribution."""
    return f"{contribution.removesuffix(SUFFIX)}{SUFFIX}"


def require_file_names(contributions: Sequence[str]) -> None:
    """Refuse names that cannot name files beside each other.

    Raises:
        BadSchema: names the first.
    """
    files = [file_name(name) for name in contributions]
    for name, file in zip(contributions, files, strict=True):
        plain = "/" not in file and not file.startswith(".") and file.isprintable()
        if not plain or len(file.encode()) > 200:
            raise BadSchema(f"contribution {name[:80]!r}: no name for an expert's file; rename it")
        if file == VECTOR_NAME or files.count(file) > 1:
            raise BadSchema(f"contribution {name!r}: its expert's file {file} is taken; rename it")


def kind_of(path: Path) -> str:
    """What a file says that it is: `EXPERT`, `VECTOR`, or nothing that is known here."""
    if not path.is_file() or not path.name.endswith(SUFFIX):
        return ""
    with FileReader(path) as reader:
        return reader.metadata.get(KIND, "")


def same_file(path: Path, metadata: Mapping[str, str]) -> bool:
    """Whether a whole file with this metadata lies there; tensors are not read."""
    try:
        with FileReader(path) as reader:
            return dict(reader.metadata) == dict(metadata)
    except WeftError:
        return False


def _holds_vector(
    method: MaskedMethod, base: Origin, merged: Origin, contributions: Sequence[Contribution]
) -> bool:
    """Whether merged - base is the unified vector, with no rounding between."""
    if not isinstance(method, Emr) or method.scale != 1:
        return False
    if any(isinstance(item.reader, DeltaReader) for item in contributions):
        return False
    readers = [base.reader, *(item.reader for item in contributions)]
    return all(
        reader.schema[spec.name].dtype == spec.dtype
        for spec in merged.reader.schema.parameters
        for reader in readers
    )


def _vector(model: Schema) -> Schema:
    return Schema(
        tuple(
            TensorSpec(spec.name, "F64" if spec.dtype == "F64" else "F32", spec.shape)
            for spec in model.parameters
        )
    )


def _differs(spec: TensorSpec, reader: RangeReader, merged: RangeReader) -> bool:
    pairs = zip(reader.blocks(spec.name), merged.blocks(spec.name), strict=True)
    return any(not torch.equal(mine.to(other.dtype), other) for mine, other in pairs)


def _seekable(item: Contribution) -> RangeReader:
    if not isinstance(item.reader, RangeReader):
        raise BadSchema(f"{item.name}: read as a stream; experts are made of files")
    return item.reader
