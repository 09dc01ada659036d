"""What somebody who pushes sends, message by message: an announcement, and then its chunks."""

from collections.abc import AsyncIterator

from weft.node.continual.messages import require_offer
from weft.protocol.assembly import Chunks
from weft.protocol.errors import BadMessage
from weft.protocol.landing import Desk
from weft.protocol.limits import MANIFEST_BYTES
from weft.protocol.v1 import continual_pb2 as pb


async def announcement(requests: AsyncIterator[pb.BeginRequest]) -> tuple[pb.Offer, bytes]:
    """What is announced: how it is to be taken, and its canonical manifest.

    Raises:
        BadMessage: it is no offer and a manifest, or one without bounds.
    """
    offer, manifest = None, bytearray()
    async for request in requests:
        if offer is None and request.WhichOneof("part") == "offer":
            require_offer(offer := request.offer)
            continue
        if offer is None or not request.manifest_piece:
            raise BadMessage("expected the offer first, then pieces of its manifest")
        manifest += request.manifest_piece
        if len(manifest) > MANIFEST_BYTES:
            raise BadMessage(f"a manifest of more than {MANIFEST_BYTES} bytes")
    if offer is None or not manifest:
        raise BadMessage("expected an offer and the manifest of what is offered")
    return offer, bytes(manifest)


async def land(requests: AsyncIterator[pb.UploadRequest], chunks: Chunks, desk: Desk) -> None:
    """Every chunk to the disk; what came whole before a cut or a fault stays.

    Args:
        requests: what follows the head of an upload.
        chunks: those that are to come.
        desk: verifies them, and writes them down.

    Raises:
        BadMessage: something else came, or less.
        SenderFault: bytes that are not what was announced.
    """
    try:
        async for request in requests:
            if request.WhichOneof("part") != "chunk":
                raise BadMessage("expected the chunks that were named, and nothing else")
            whole = chunks.take(request.chunk.index, request.chunk.data)
            if whole is not None:
                await desk.put(whole)
    finally:
        await desk.settle()
    chunks.require_end()
