"""An HTTP server before a registry that tests make misbehave: it relays what no hook answers."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Hook = Callable[["Exchange"], bool]
_HOP = ("host", "connection", "transfer-encoding")


class Exchange(BaseHTTPRequestHandler):
    """One request; a hook answers by ``answer`` (or the socket) and returns True."""

    protocol_version = "HTTP/1.1"
    server: Front

    def answer(self, status: int, body: bytes = b"", **headers: str) -> bool:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return True

    def handle_one(self) -> None:
        with self.server.lock:
            self.server.requests.append((self.command, self.path, dict(self.headers)))
        if not any(hook(self) for hook in self.server.hooks):
            self.relay()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = handle_one

    def relay(self, limit: int | None = None) -> None:
        """Pass on to the registry; with ``limit`` only so many bytes of the body, then hang up on both."""
        length = int(self.headers.get("Content-Length", 0))
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=100)
        path = self.path.removeprefix(f"http://{self.headers['Host']}")
        upstream.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP:
                upstream.putheader(name, value)
        upstream.putheader("Host", self.headers["Host"])
        upstream.endheaders()
        left = length if limit is None else min(limit, length)
        while left:
            piece = self.rfile.read(min(left, 65536))
            if not piece:
                break
            upstream.send(piece)
            left -= len(piece)
        if limit is not None and limit < length:
            upstream.close()
            self.close_connection = True
            return
        response = upstream.getresponse()
        data = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in (*_HOP, "content-length"):
                self.send_header(name, value)
        size = response.headers.get("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(size or 0))
        self.end_headers()
        self.wfile.write(data)
        upstream.close()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class Front(ThreadingHTTPServer):
    """The server, on a free port of loopback; ``requests`` is what came, ``connections`` over how many."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: str, *hooks: Hook) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.upstream = upstream
        self.hooks = list(hooks)
        self.lock = threading.Lock()
        self.connections = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what some tests are about."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()
