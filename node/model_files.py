"""Between a torch module in memory and its checkpoint on disk.

A checkpoint holds what `state_dict` names. Tied tensors (one storage under
several names) lie in it once: under the first of their names in a model that
begins here, otherwise under the name that the checkpoint it came from used, so
that training never changes a schema. The other names stand in the metadata.
Tensors are streamed one by one: beside the module, memory holds the largest.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from weft.checkpoints.dtypes import schema_of
from weft.checkpoints.errors import SchemaMismatch
from weft.checkpoints.reader import TensorReader, open_checkpoint
from weft.checkpoints.schema import Schema, check
from weft.checkpoints.writer import SafetensorsWriter
from weft.node.errors import BadTrainer, ModelChanged, NotFinite

TIED: Final = "weft.tied"
"""Metadata: a JSON object from each name that is left out to the one that it is tied to."""


def save_model(
    model: nn.Module,
    path: Path,
    *,
    like: TensorReader | None = None,
) -> None:
    """Write a module's state as one safetensors file, durably and in one step.

    Args:
        model: on any device; not modified.
        path: replaced if it exists.
        like: the checkpoint that the module was loaded from: its names are kept,
            and its metadata.

    Raises:
        ModelChanged: the module no longer fits that checkpoint.
    """
    state = _state_of(model)
    names = _names_on_disk(state, () if like is None else like.schema.names)
    tensors = {name: state[name] for name in sorted(set(names.values()))}
    schema = schema_of(tensors)
    if like is not None:
        _require_unchanged(schema, like.schema)
    with SafetensorsWriter(path, schema, _metadata(names, like)) as writer:
        for spec in schema:
            writer.write(spec.name, tensors[spec.name].detach().cpu().contiguous())


def load_model(model: nn.Module, reader: TensorReader) -> None:
    """Copy a checkpoint into a module, tensor by tensor.

    Args:
        model: its tensors are overwritten in place.
        reader: names, shapes and dtypes are those of the module; of tied names
            any will do.

    Raises:
        SchemaMismatch: the module differs; the message lists the first differences.
    """
    state = _state_of(model)
    names = _names_on_disk(state, reader.schema.names)
    tensors = {name: state[name] for name in sorted(set(names.values()))}
    check(schema_of(tensors), reader.schema, f"the trainer's model() for {_where(reader)}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(reader.read(name))


def load_model_file(model: nn.Module, path: Path) -> None:
    """`load_model` from a path."""
    with open_checkpoint(path) as reader:
        load_model(model, reader)


def require_finite(model: nn.Module, when: str) -> None:
    """Refuse a module that holds a NaN or an infinity.

    Raises:
        NotFinite: says when, which tensor, and how many values.
    """
    for name, tensor in _state_of(model).items():
        if tensor.is_floating_point():
            _require_finite_tensor(name, tensor, when)


def require_sound_file(path: Path, like: Path, when: str) -> None:
    """Refuse a checkpoint that another program wrote if it cannot be merged.

    Blocks; reads the whole file, block by block.

    Raises:
        ModelChanged: other names, shapes or dtypes than `like`.
        NotFinite: a NaN or an infinity.
    """
    with open_checkpoint(like) as expected, open_checkpoint(path) as found:
        try:
            check(found.schema, expected.schema, when)
        except SchemaMismatch as error:
            raise ModelChanged(str(error)) from error
        for spec in found.schema:
            for block in found.blocks(spec.name):
                if block.is_floating_point():
                    _require_finite_tensor(spec.name, block, when)


def _require_finite_tensor(name: str, tensor: Tensor, when: str) -> None:
    # float8 has no isfinite; its sums are exact enough to tell.
    values = tensor.float() if tensor.element_size() == 1 else tensor
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise NotFinite(
            f"{when}: {name} holds {count} NaN or infinite value(s); "
            "nothing of this round is kept: lower the learning rate, or look at the data"
        )


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise BadTrainer(
            f"the model's state_dict holds {strange[0]!r}, which is no tensor; "
            "keep extra state in the trainer's state()"
        )
    return dict(state)


def _names_on_disk(state: Mapping[str, Tensor], used: tuple[str, ...]) -> dict[str, str]:
    """Each name of the module -> the name under which its tensor lies in the file."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name in sorted(state):
        groups.setdefault(_identity(name, state[name]), []).append(name)
    known = set(used)
    names: dict[str, str] = {}
    for group in groups.values():
        stored = [name for name in group if name in known] or group[:1]
        names |= {name: name if name in stored else stored[0] for name in group}
    return names


def _identity(name: str, tensor: Tensor) -> tuple[object, ...]:
    if tensor.numel() == 0:
        return (name,)  # without storage nothing is shared
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _metadata(names: Mapping[str, str], like: TensorReader | None) -> dict[str, str]:
    tied = {name: stored for name, stored in names.items() if name != stored}
    kept = {"format": "pt"} if like is None else dict(like.metadata)
    kept.pop(TIED, None)
    return kept | ({TIED: json.dumps(tied, sort_keys=True)} if tied else {})


def _require_unchanged(found: Schema, expected: Schema) -> None:
    try:
        check(found, expected, "after training")
    except SchemaMismatch as error:
        raise ModelChanged(
            f"{error}; train() may change values, not names, shapes or dtypes"
        ) from error


def _where(reader: TensorReader) -> str:
    return str(getattr(reader, "where", "the checkpoint"))
