"""What a merge of files takes, beside mergekit, FusionBench and the least that it can take.

    python benchmarks/merge_engine.py [--size s1|s2|both]
                                      [--tables startup floors mergekit spectral]
                                      [--methods ties dare_ties ...] [--repeats 3] [--json FILE]
                                      [--cache ~/.cache/weft-bench] [--torch-index URL]

All in one run, on the same generated files, each merge a process of its own. The other
tools are installed, once, in environments of their own under the cache folder; what pip
cannot install is left out. "net" is without the start-up of the same program, measured
with a model of 0.1 M parameters. The floors are loops on one thread: one reads all and
writes the result with no arithmetic, one does the method's bare arithmetic in float32.
The spectral table is of matrices in memory, on one thread.

s1: 125 M parameters, 1.2 GB of files. s2: TinyLlama's 1.1 B, 11 GB. bfloat16, a base and
four fine-tunes. Medians; ratios are of medians.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from peers import reports, spectral
from peers.engine import METHODS, Bench
from peers.environments import NotThere

TABLES = ("startup", "floors", "mergekit", "spectral")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("s1", "s2", "both"), default="s1")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of weft; 0: one a core")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/weft-bench"))
    parser.add_argument("--torch-index", default="", help="a further index to take torch from")
    parser.add_argument("--json", type=Path, help="write every figure there")
    given = parser.parse_args()
    bench = Bench(
        cache=given.cache.expanduser().absolute(),
        repeats=given.repeats,
        threads=given.threads,
        torch_index=given.torch_index,
    )
    found: dict[str, object] = {"machine": machine(), "repeats": given.repeats}
    print(f"{machine()}; {given.repeats} runs each, medians")
    startup = bench.startup()
    found["startup"] = reports.plain(startup)
    if "startup" in given.tables:
        print(reports.startup(startup))
    sizes = ("s1", "s2") if given.size == "both" else (given.size,)
    for size in sizes:
        if "floors" in given.tables:
            rows = bench.floors(size, startup)
            found[f"floors {size}"] = reports.plain(rows)
            print(reports.floors(size, rows))
        if "mergekit" in given.tables and "mergekit" in startup:
            peers = bench.against_mergekit(size, given.methods, startup)
            found[f"mergekit {size}"] = reports.plain(peers)
            print(reports.peers(size, peers))
    if "spectral" in given.tables:
        try:
            cases = spectral.compare(bench.cache, given.repeats, given.torch_index)
            found["spectral"] = reports.plain(cases)
            print(reports.spectral(cases))
        except NotThere as reason:
            print(f"\nspectral: {reason}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    return 0


def machine() -> str:
    """Its cores and their name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {names[0] if names else sys.platform}"


if __name__ == "__main__":
    sys.exit(main())
