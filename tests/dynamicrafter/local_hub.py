"""A hub on this machine that can cut connections, send wrong bytes and refuse."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

CONTENT = random.Random(0).randbytes(300_000)
PATH = "/owner/weights/resolve/main/toy.safetensors"


@dataclass
class Hub:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    announced: bytes = CONTENT
    """Content whose size and hash the HEAD answer gives."""
    lfs: bool = True
    """Whether the answers carry the hub's own headers."""
    sized: bool = True
    """Whether the HEAD answer gives a size."""
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """How many bytes each GET sends before its connection breaks; then whole answers."""
    status: int = 200
    get_status: int = 200
    bad_token: str | None = None
    """A token that is refused with 401, as an expired one is."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range header of each request."""
    encodings: set[str | None] = field(default_factory=set)
    """Accept-Encoding headers of the GET requests."""
    url: str = ""
    path: str | None = PATH
    """The one file that the server has; None for any path."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Set, unless the second half of each answer is to wait for it."""

    def __post_init__(self) -> None:
        self.gate.set()

    def ranges_asked(self) -> list[str]:
        return [asked for method, _, asked in self.asked if method == "GET" and asked is not None]


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def refused(self, status: int) -> bool:
            hub.asked.append((self.command, unquote(self.path), self.headers.get("Range")))
            token = self.headers.get("Authorization")
            if hub.bad_token is not None and token == f"Bearer {hub.bad_token}":
                status = 401
            if status == 200 and hub.path not in (None, self.path):
                status = 404
            if status == 200:
                return False
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return True

        def do_HEAD(self) -> None:
            if self.refused(hub.status):
                return
            self.send_response(200)
            if hub.sized:
                self.send_header("Content-Length", str(len(hub.announced)))
            if hub.lfs:
                digest = hashlib.sha256(hub.announced).hexdigest()
                self.send_header("ETag", f'"{digest}"')
                self.send_header("X-Linked-Etag", f'"{digest}"')
                if hub.sized:
                    self.send_header("X-Linked-Size", str(len(hub.announced)))
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("X-Xet-Hash", "1" * 64)
            else:
                self.send_header("ETag", '"plain"')
            self.end_headers()

        def do_GET(self) -> None:
            if self.refused(hub.get_status):
                return
            hub.encodings.add(self.headers.get("Accept-Encoding"))
            wanted = self.headers.get("Range")
            start = 0
            if wanted is not None and hub.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(hub.content):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(hub.content) - 1}/{len(hub.content)}")
            else:
                self.send_response(200)
            body = hub.content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if hub.cuts:
                self.wfile.write(body[: hub.cuts.pop(0)])
                self.close_connection = True
            else:
                self.wfile.write(body[: len(body) // 2])
                hub.gate.wait(60)
                self.wfile.write(body[len(body) // 2 :])

    return Handler


class Server(ThreadingHTTPServer):
    """Serves ``hub`` at any free port of 127.0.0.1 and writes its address there."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), handler(hub))
        hub.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is what some tests are about."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
