"""A process that merges files in forks of itself, each to be killed.

    python -m tests.checkpoints.merge_kill_child

See `forks.py` for what it is told and says; FOLDER holds the models.
"""

from pathlib import Path

from tests.checkpoints.forks import serve
from weft.checkpoints.engine import MergeSpec
from weft.checkpoints.job import Input, MergeJob, MergeReport, run_job
from weft.merging.methods.dare import Dare
from weft.merging.methods.lines import Lines
from weft.merging.methods.ties import Ties

SHARD_BYTES = 400


def merge_files(path: Path, folder: Path, *, resume: bool) -> MergeReport:
    """Steps that draw, rank and know of depth, into several shards."""
    names = ("a", "b", "c")
    job = MergeJob(
        spec=MergeSpec(method=Ties(), before=(Dare(), Lines())),
        base=Input(path=folder / "base", name="base"),
        models=tuple(Input(path=folder / name, name=name) for name in names),
        output=path,
        recipe={"method": "ties"},
        shard_bytes=SHARD_BYTES,
        threads=2,
        resume=resume,
    )
    return run_job(job)


def work(path: Path, folder: Path, resume: bool) -> None:
    """What a fork does with its life."""
    merge_files(path, folder, resume=resume)


if __name__ == "__main__":
    serve(work)
