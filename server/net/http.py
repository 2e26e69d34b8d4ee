"""HTTP for those who watch: /health, /ready, /metrics, and a page for browsers. Off unless [http] bind is set.

It shares the event loop with the clients, so every answer is small, comes from memory and waits for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from server.net.addresses import cannot_listen

_log = logging.getLogger(__name__)

# Nothing may be cached, it is all "now".
_HEADERS: Final = {
    "Server": "forebay",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
# What all but the page tells the browser to load and run: nothing.
_STRICTEST: Final = "default-src 'none'; frame-ancestors 'none'"
# Requests carry no body. A peer that is still busy at shutdown is cut off after this many seconds.
_MAX_BODY: Final = 1024
_SHUTDOWN_S: Final = 1.0


class _Metrics(Collector):
    """prometheus_client's view of our counters: asked anew for every scrape."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


class HttpServer:
    """The HTTP port. `bind` is (host, port), port 0 any free one; the others are asked per request.

    `page` gives the page for browsers and its Content-Security-Policy.
    """

    def __init__(
        self,
        bind: tuple[str, int],
        is_ready: Callable[[], bool],
        collect: Callable[[], Iterable[Metric]],
        page: Callable[[], tuple[str, str]],
    ) -> None:
        self._bind = bind
        self._is_ready = is_ready
        self._write_page = page
        # A registry of our own: the global one carries the process metrics of whoever imported the library. It must not
        # describe (that is, collect) at registration, when there may be nothing to collect yet.
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Metrics(collect))
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Bind and serve; OSError when the address cannot be had."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_get("/", self._page)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.on_response_prepare.append(self._add_headers)
        runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, *self._bind).start()
        except OSError as error:
            await runner.cleanup()
            raise cannot_listen("{}:{} (http.bind)".format(*self._bind), error) from error
        self._runner = runner

    async def stop(self) -> None:
        """Stop accepting, finish what runs, close. Harmless when not started."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def address(self) -> tuple[str, int] | None:
        """Where it listens, the port being the real one; None when it does not."""
        if self._runner is None or not self._runner.addresses:
            return None
        host, port = self._runner.addresses[0][:2]
        return str(host), int(port)

    async def _add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)
        response.headers.setdefault("Content-Security-Policy", _STRICTEST)

    async def _page(self, _request: web.Request) -> web.Response:
        text, policy = self._write_page()
        return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        if self._is_ready():
            return web.Response(text="ready\n")
        return web.Response(text="not ready\n", status=503)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = encode(self._registry)
        return web.Response(body=body, headers={"Content-Type": content_type})
