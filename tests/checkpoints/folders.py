"""Folders as other programs write them: distributed checkpoints, adapters."""

import io
import json
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_saver import save

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes."""


def save_distributed(folder: Path, state: dict[str, object]) -> None:
    """As one process without a group saves; the writer warns that it is alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(state, checkpoint_id=folder, no_dist=True)


def save_sharded(
    folder: Path, tensors: Mapping[str, Tensor], boxes: Mapping[str, Sequence[Box]], files: int = 2
) -> None:
    """As some ranks save: each tensor in boxes, dealt out to the ranks' files."""
    folder.mkdir(parents=True, exist_ok=True)
    streams = [io.BytesIO() for _ in range(files)]
    entries: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    stored: dict[MetadataIndex, _StorageInfo] = {}
    for name, tensor in tensors.items():
        chunks = []
        whole: Box = ((0,) * tensor.dim(), tuple(tensor.shape))
        for number, (offsets, sizes) in enumerate(boxes.get(name, [whole])):
            cut = tensor[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))]
            rank = number % files
            begin = streams[rank].tell()
            torch.save(cut.contiguous().clone(), streams[rank])
            info = _StorageInfo(f"__{rank}_0.distcp", begin, streams[rank].tell() - begin)
            stored[MetadataIndex(name, offsets)] = info
            chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
        properties = TensorProperties.create_from_tensor(tensor)
        entries[name] = TensorStorageMetadata(properties, tensor.shape, chunks)
    write_metadata(folder, Metadata(entries, {}, stored))
    for rank, stream in enumerate(streams):
        (folder / f"__{rank}_0.distcp").write_bytes(stream.getvalue())


def write_metadata(folder: Path, metadata: object) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(metadata, protocol=4))


def read_metadata(folder: Path) -> Metadata:
    found = pickle.loads((folder / ".metadata").read_bytes())
    assert isinstance(found, Metadata)
    return found


CONFIG: dict[str, object] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "somebody/base",
    "bias": "none",
    "r": 2,
    "lora_alpha": 4,
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "target_modules": ["q"],
    "task_type": "CAUSAL_LM",
}


def save_adapter(folder: Path, tensors: Mapping[str, Tensor], **config: object) -> Path:
    """Tensors by their names without `base_model.model.`, and changes of `CONFIG`."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder
