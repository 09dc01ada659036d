"""A coordinator's configuration: one TOML file, two keys without a default."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from weft.protocol.configuration import FilePath, load_toml


class CoordinatorConfig(BaseModel):
    """What `weft coordinator --config FILE` reads; relative paths count from the file.

    Attributes:
        listen: host:port for nodes and operators; port 0 takes a free one.
        credentials: folder of node.pem, node.key and ca.pem, of the role coordinator.
        data: folder of the database and the store; made where it does not exist.
        database: URL of the database; empty: SQLite in `data`.
        metrics: host:port of the status page and of /metrics, plain HTTP without
            any login, so keep it on this machine; empty: none.
        revoked: the authority's revoked.json, read again whenever it changes.
        log_level: what is below is not logged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: str = "0.0.0.0:9300"
    credentials: FilePath
    data: FilePath
    database: str = ""
    metrics: str = Field(default="127.0.0.1:9400", pattern=r"^(|\S+:[0-9]{1,5})$")
    revoked: FilePath | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def database_url(self) -> str:
        """The URL that is used; it may hold a password."""
        return self.database or f"sqlite:///{self.data.resolve() / 'runs.sqlite'}"


def load_config(path: Path) -> CoordinatorConfig:
    """Read a coordinator's TOML file; blocks.

    Raises:
        InvalidInput: no such file, an unknown key (with the nearest valid one),
            a value of the wrong kind.
    """
    return load_toml(path, CoordinatorConfig)
