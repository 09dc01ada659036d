"""One step of OPCM, beside FusionBench's own functions, on the matrices of a ViT-B/32.

    python benchmarks/opcm.py [--layers 2] [--repeats 3] [--large] [--threads 2]
                              [--cache ~/.cache/weft-bench] [--torch-index URL] [--json FILE]

A newcomer is absorbed: the linear weights of some of the twelve layers, which count twelve
over as many times, and single square matrices; --large adds one of 4096 by 4096, which
takes minutes a run. weft works on matrices side by side, one torch thread each, as its
engine does; FusionBench on one after the other, with as many torch threads, and once more
with one, which on shared cores takes less. Its environment is made once, in the cache
folder. All run in turn, each a process of its own, and what it takes to load is not
counted. Errors are those of the projected newcomer, in the Frobenius norm, against a full
decomposition in float64. Medians; ratios are of medians.
"""

import argparse
import json
import sys
from pathlib import Path

from peers import opcm
from peers.environments import NotThere
from peers.reports import plain


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2, help="of twelve, that are measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="also 4096 by 4096")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/weft-bench"))
    parser.add_argument("--torch-index", default="", help="a further index to take torch from")
    parser.add_argument("--json", type=Path, help="write every figure there")
    given = parser.parse_args()
    bench = opcm.Bench(
        cache=given.cache.expanduser().absolute(),
        layers=given.layers,
        repeats=given.repeats,
        threads=given.threads,
        torch_index=given.torch_index,
    )
    try:
        rows, errors = bench.compare(large=given.large)
    except NotThere as reason:
        print(reason)
        return 1
    print(opcm.report(rows, errors, given.threads))
    if given.json:
        given.json.write_text(json.dumps({"rows": plain(rows), "errors": errors}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
