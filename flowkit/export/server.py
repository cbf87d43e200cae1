"""Serve the files of one folder to this machine: `flowkit demo`."""

from __future__ import annotations

import errno
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flowkit.errors import UserError

LOOPBACK = "127.0.0.1"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


class Server(ThreadingHTTPServer):
    """Serves the files that are in `folder` when it starts, and nothing else, to requests that name this machine as their host.

    Checking the host keeps out pages of other sites whose name was made to point here (DNS rebinding).
    Raises UserError if the port is in use.
    """

    daemon_threads = True
    allow_reuse_address = True  # a port of a server that ended a moment ago

    def __init__(self, folder: Path, port: int):
        self.files = {f"/{path.name}": path for path in folder.iterdir() if path.is_file() and path.name[0] != "."}
        self.files["/"] = self.files["/index.html"]
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            if error.errno == errno.EACCES:
                raise UserError(
                    f"--port: {port} is reserved for the system; choose one above 1023, such as 8000"
                ) from None
            if error.errno != errno.EADDRINUSE:
                raise
            raise UserError(
                f"--port: {port} is in use by another program; choose another one (--port {port + 1}), or any free one (--port 0)"
            ) from None
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}
        if self.server_port == 80:
            self.hosts |= {LOOPBACK, "localhost"}

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore browsers that close a connection early."""


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds, for a client that sends nothing

    def do_GET(self) -> None:
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "This server answers to this machine only")
            return
        path = self.server.files.get(unquote(urlsplit(self.path).path))
        if path is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content = path.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", TYPES.get(path.suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def version_string(self) -> str:
        return "flowkit"
