"""Merge safetensors files into one, with the library that the daemons use.

python merge_checkpoints.py merged.safetensors a.safetensors b.safetensors c.safetensors
"""

import argparse
from contextlib import ExitStack

from weft.checkpoints.engine import Contribution, merge
from weft.checkpoints.reader import open_checkpoint
from weft.checkpoints.writer import SafetensorsWriter
from weft.merging import registry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--method", default="mean", help=", ".join(registry.names()))
    parser.add_argument("--base", help="what task vectors are taken from; without: zero")
    arguments = parser.parse_args()

    with ExitStack() as stack:
        readers = [stack.enter_context(open_checkpoint(path)) for path in arguments.models]
        base = stack.enter_context(open_checkpoint(arguments.base)) if arguments.base else None
        contributions = [
            Contribution(name=path, reader=reader, weight=1.0)
            for path, reader in zip(arguments.models, readers, strict=True)
        ]
        method = registry.create(arguments.method)
        with SafetensorsWriter(arguments.out, readers[0].schema, {"format": "pt"}) as writer:
            merge(method, base, contributions, readers[0], writer)
    print(f"{arguments.out}: {arguments.method} of {len(readers)} models")


if __name__ == "__main__":
    main()
