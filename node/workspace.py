"""The node's data folder: where models, states and artifacts lie.

A *model reference* is how the journal names a model: `object:<digest>` in the
store, or `file:<path>` relative to the folder. Both stay valid over a restart.
"""

import shutil
from pathlib import Path

from weft.checkpoints.store import Store


class Workspace:
    """Paths of a node's data folder, and what may be thrown away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.store = Store(folder / "store")

    @property
    def journal(self) -> Path:
        """The journal's database."""
        return self.folder / "journal.sqlite"

    @property
    def initial_model(self) -> Path:
        """The model that a node without a base starts from."""
        return self.folder / "initial.safetensors"

    @property
    def merged_folder(self) -> Path:
        """The final model as a plain checkpoint folder."""
        return self.folder / "merged"

    @property
    def stream(self) -> Path:
        """The node's own stream, in continual mode."""
        return self.folder / "stream"

    def round_folder(self, round: int) -> Path:
        """The folder of a round's files; made when asked for."""
        folder = self.folder / "rounds" / f"{round:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def reference(self, path: Path) -> str:
        """How the journal names a file of this folder."""
        return f"file:{path.relative_to(self.folder).as_posix()}"

    def path(self, reference: str) -> Path:
        """Where a referenced model lies, as a safetensors file."""
        kind, _, rest = reference.partition(":")
        return self.folder / rest if kind == "file" else self.store.payload_path(rest)

    def discard_rounds_before(self, round: int) -> None:
        """Remove the folders of rounds that nothing refers to any more."""
        for folder in sorted((self.folder / "rounds").glob("[0-9]*")):
            if int(folder.name) < round:
                shutil.rmtree(folder)
