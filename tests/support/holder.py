"""A process that serves a store: python -m tests.support.holder CREDENTIALS STORE."""

import asyncio
import sys
from pathlib import Path

from tests.support.wire import HoldingPeer, serving
from weft.checkpoints.store import Store
from weft.protocol.identity import Credentials


async def main(credentials: str, store: str) -> None:
    holder = HoldingPeer(Store(store))
    async with serving(Credentials.load(Path(credentials)), holder) as port:
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
