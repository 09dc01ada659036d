"""The status page: HTML for people, JSON for programs, figures for Prometheus.

    /             all runs and their members, refreshed by itself
    /status.json  the same as JSON
    /metrics      Prometheus

Plain HTTP without a login: it belongs on the loopback interface. It shows names,
addresses and figures, never keys or certificates; whatever nodes wrote is escaped.
"""

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, Final, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from weft.coordinator.errors import BadMetricsAddress
from weft.coordinator.metrics import standing_of
from weft.coordinator.statuses import MemberStatus, RunStatus, document
from weft.errors import WeftError

Start: TypeAlias = Callable[..., Any]
Application: TypeAlias = Callable[[dict[str, Any], Start], Iterable[bytes]]

_TIMEOUT_S: Final = 5
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<title>weft coordinator</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222 }}
table {{ border-collapse: collapse; margin: .5rem 0 2rem }}
td, th {{ text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd }}
.away, .dropped {{ color: #b00 }} .left {{ color: #888 }} .message {{ color: #b00 }}
</style></head><body><h1>weft coordinator</h1>{runs}</body></html>
"""


class StatusServer:
    """Serves the status page from a thread of its own.

    Args:
        listen: host:port; port 0 takes a free one.
        statuses: all runs as they are now; called from the server's threads.
        registry: what /metrics shows.

    Raises:
        BadMetricsAddress: not host:port, or taken.
    """

    def __init__(
        self,
        listen: str,
        statuses: Callable[[], Sequence[RunStatus]],
        registry: CollectorRegistry,
    ) -> None:
        host, _, port = listen.rpartition(":")
        try:
            self._server = make_server(
                host.strip("[]"),
                int(port),
                application(statuses, registry),
                _Server,
                handler_class=_Handler,
            )
        except (OSError, OverflowError, ValueError) as error:
            raise BadMetricsAddress(
                f"metrics = {listen!r}: cannot be listened on ({error}); name a free host:port, "
                'or "" for no status page'
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """host:port that is listened on."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def close(self) -> None:
        """Stop listening; blocks for half a second at most."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_TIMEOUT_S)


def application(
    statuses: Callable[[], Sequence[RunStatus]], registry: CollectorRegistry
) -> Application:
    """The pages as a WSGI application."""
    metrics: Application = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _plain(start, "405 Method Not Allowed", "only GET\n")
        if path == "/metrics":
            return metrics(environ, start)
        if path not in ("/", "/status.json"):
            return _plain(start, "404 Not Found", "there are /, /status.json and /metrics\n")
        try:
            found = statuses()
        except WeftError as error:
            return _plain(start, "503 Service Unavailable", f"{error}\n")
        if path == "/":
            return _respond(start, "200 OK", "text/html; charset=utf-8", page(found))
        text = json.dumps({"runs": [document(status) for status in found]}, indent=1)
        return _respond(start, "200 OK", "application/json", text)

    return answer


def page(statuses: Sequence[RunStatus]) -> str:
    """All runs as HTML."""
    if not statuses:
        return _PAGE.format(runs="<p>No runs yet: <code>weft run create FILE</code>.</p>")
    return _PAGE.format(runs="".join(_run(status) for status in statuses))


def _run(status: RunStatus) -> str:
    message = f'<p class="message">{escape(status.message)}</p>' if status.message else ""
    rows = "".join(_member(member) for member in status.members)
    return (
        f"<h2>{escape(status.name)}</h2>"
        f"<p>{status.state} · round {status.round} of {status.spec.rounds} · "
        f"{len(status.members)} members of {status.spec.nodes} · plan {status.version}</p>"
        f"{message}<table><tr><th>node</th><th>standing</th><th>state</th><th>round</th>"
        f"<th>heard</th><th>merges</th><th>metrics</th><th>message</th></tr>{rows}</table>"
    )


def _member(member: MemberStatus) -> str:
    report, standing = member.report, standing_of(member)
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in sorted(report.metrics.items()))
    merges = f"{report.merges_adopted} adopted, {report.merges_rejected} rejected"
    cells = (
        member.node,
        standing,
        report.state,
        str(report.round),
        f"{member.silent_s:.0f} s ago",
        merges,
        metrics,
        report.message,
    )
    row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr class="{standing}">{row}</tr>'


def _plain(start: Start, status: str, text: str) -> Iterable[bytes]:
    return _respond(start, status, "text/plain; charset=utf-8", text)


def _respond(start: Start, status: str, kind: str, text: str) -> Iterable[bytes]:
    data = text.encode()
    headers = [
        ("Content-Type", kind),
        ("Content-Length", str(len(data))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
    ]
    start(status, headers)
    return [data]


class _Server(ThreadingWSGIServer):
    daemon_threads = True
    block_on_close = False


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line each."""
