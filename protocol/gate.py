"""What stands before every method of a server.

One interceptor: it reads the caller's identity, asks the authorizer, checks the
version, counts bytes, turns errors into status codes, and ends streams in which
nothing moves. Servicers behind it see permitted calls only and simply raise.
Internal: `weft.protocol.server` builds it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from weft.errors import Stalled
from weft.protocol.authorize import VERSION_KEY, Authorizer, require_version
from weft.protocol.errors import BadMessage
from weft.protocol.identity import Identity, identity_of
from weft.protocol.status import status_of

log = structlog.get_logger(__name__)

OnBytes: TypeAlias = Callable[[str, str, int], None]
"""Told (the peer's name, "sent" or "received", bytes) for every message."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = Callable[["grpc.HandlerCallDetails"], Awaitable[Any]]

_FAREWELL_S = 1.0
"""How long the status of a stalled stream may take before the stream is dropped."""


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """The interceptor; see the module."""

    def __init__(
        self, authorizer: Authorizer, federation: str, progress_s: float, on_bytes: OnBytes | None
    ) -> None:
        self.authorizer = authorizer
        self.federation = federation
        self.progress_s = progress_s
        self.on_bytes = on_bytes

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Put a fresh `_Call` before the method's own handler."""
        handler: Handler = await continuation(handler_call_details)
        if handler is None:
            return handler  # gRPC answers UNIMPLEMENTED itself
        metadata = {key: str(value) for key, value in handler_call_details.invocation_metadata}
        return _Call(
            self, handler, handler_call_details.method, metadata.get(VERSION_KEY)
        ).handler()


class _Call:
    """One call: requests come in as bytes, and are parsed once the caller is admitted."""

    def __init__(self, gate: Gate, handler: Any, method: str, version: str | None) -> None:
        self._gate = gate
        self._inner = handler
        self._method = method
        self._version = version
        self._caller = ""

    def handler(self) -> Handler:
        """A handler of the same kind whose behaviour passes through here."""
        inner = self._inner
        kind = ("stream" if inner.request_streaming else "unary") + (
            "_stream" if inner.response_streaming else "_unary"
        )
        make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
        behaviour = self._respond_stream if inner.response_streaming else self._respond
        return make(behaviour, request_deserializer=None, response_serializer=self._serialize)

    async def _respond(self, request: Any, context: Context) -> Any:
        inner = (
            self._inner.stream_unary if self._inner.request_streaming else self._inner.unary_unary
        )
        async with self._admitted(context) as caller:
            return await inner(self._guarded(request, caller), context)

    async def _respond_stream(self, request: Any, context: Context) -> None:
        if self._inner.request_streaming:
            inner = self._inner.stream_stream
        else:
            inner = self._inner.unary_stream
        async with self._admitted(context) as caller:
            responses = inner(self._guarded(request, caller), context)
            if not hasattr(responses, "__aiter__"):
                await responses  # the kind of method that writes by itself
                return
            async with aclosing(responses):
                async for response in responses:
                    self._gate.authorizer.require_unrevoked(caller)
                    await self._write(response, context)

    async def _write(self, response: Any, context: Context) -> None:
        """Send one message; the caller must take it within the progress deadline."""
        try:
            async with asyncio.timeout(self._gate.progress_s):
                await context.write(response)
        except TimeoutError:
            raise Stalled(f"{self._caller} took nothing for {self._gate.progress_s:g} s") from None

    def _guarded(self, request: Any, caller: Identity) -> Any:
        if self._inner.request_streaming:
            return self._requests(request, caller)
        return self._parsed(request)

    async def _requests(self, requests: AsyncIterator[Any], caller: Identity) -> AsyncIterator[Any]:
        """The caller's messages; one must come within each progress deadline."""
        while True:
            try:
                async with asyncio.timeout(self._gate.progress_s):
                    request = await anext(requests)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Stalled(
                    f"{self._caller} sent nothing for {self._gate.progress_s:g} s"
                ) from None
            self._gate.authorizer.require_unrevoked(caller)
            yield self._parsed(request)

    @asynccontextmanager
    async def _admitted(self, context: Context) -> AsyncIterator[Identity]:
        """Check the caller, count the call; turn what is raised inside into a status."""
        gate = self._gate
        try:
            caller = identity_of(context)
            self._caller = caller.name
            gate.authorizer.admit(self._method, caller, gate.federation)
            require_version(self._method, self._version)
            streaming = self._inner.request_streaming or self._inner.response_streaming
            with gate.authorizer.counted(caller, stream=streaming):
                yield caller
        except grpc.aio.InternalError:
            await _drop()  # the caller went away while it was written to
        except grpc.aio.BaseError:
            raise  # the method aborted by itself
        except Exception as error:
            log.info("call refused", method=self._method, caller=self._caller, reason=str(error))
            await _abort(context, error)

    def _parsed(self, data: bytes) -> Any:
        self._count("received", len(data))
        try:
            return self._inner.request_deserializer(data)
        except DecodeError as error:
            raise BadMessage(f"{self._method}: the message cannot be parsed") from error

    def _serialize(self, response: Any) -> bytes:
        # Fetch hands over encoded messages; see weft.protocol.pieces.
        encoded = isinstance(response, bytes)
        data: bytes = response if encoded else self._inner.response_serializer(response)
        self._count("sent", len(data))
        return data

    def _count(self, direction: str, count: int) -> None:
        if self._gate.on_bytes is not None and count:
            self._gate.on_bytes(self._caller, direction, count)


async def _abort(context: Context, error: Exception) -> None:
    """End a call with the status of an error.

    A status waits behind the message that a stalled caller does not take; then
    the call is dropped without one.
    """
    code, message = status_of(_first(error))
    try:
        async with asyncio.timeout(_FAREWELL_S if isinstance(error, Stalled) else None):
            await context.abort(code, message)
    except TimeoutError:
        await _drop()


async def _drop() -> None:
    """End this call's own task without a word: nobody takes one."""
    task = asyncio.current_task()
    if task is not None:
        task.cancel()
    await asyncio.sleep(0)


def _first(error: Exception) -> Exception:
    """The error itself, or the first of a task group's."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
