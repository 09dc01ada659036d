"""A spectral method of weft on the matrices of a folder; prints CPU seconds.

python benchmarks/peers/spectral_weft.py FOLDER METHOD REPEATS
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from weft.checkpoints.allocator import keep_freed_buffers
from weft.merging.blocks import Block, in_proportion, merge_block
from weft.merging.method import Facts
from weft.merging.registry import create

OPTIONS = {"knots": {"density": 0.2, "scale": 1.0}}


def main() -> None:
    folder, name, repeats = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    keep_freed_buffers()
    method = create(name, **OPTIONS.get(name, {}))

    def work(deltas: list[torch.Tensor]) -> torch.Tensor:
        shape = tuple(deltas[0].shape)
        facts = [Facts(contribution=str(place), weight=1.0) for place in range(len(deltas))]
        block = Block(name="layer.weight", tensor_shape=shape, shape=shape)
        # The engine makes float64 blocks of what it reads; that counts here.
        wide = [delta.to(torch.float64) for delta in deltas]
        return merge_block(method, block, wide, in_proportion(method, facts))

    work([torch.eye(64) + place for place in range(4)])
    seconds, merged = {}, {}
    for path in sorted(folder.glob("*x*.safetensors")):
        tasks = load_file(path)
        deltas = [tasks[key] for key in sorted(tasks)]
        taken = []
        for _ in range(repeats):
            began = time.process_time()
            result = work(deltas)
            taken.append(time.process_time() - began)
        merged[path.stem] = result.contiguous()
        seconds[f"{name} {path.stem}"] = statistics.median(taken)
    save_file(merged, folder / f"weft-{name}.safetensors")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
