"""A local server that speaks chat completions, or misbehaves as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PLAN = {
    "subject": "the sea",
    "motion_prompt": "waves roll in",
    "camera": "static",
    "motion": 0.4,
    "mode": "animate",
    "negative_prompt": "",
    "seconds": 2,
    "sound": "sea",
    "why": "water moves",
}


def completion(content: Any) -> bytes:
    """A chat completion with this content."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


Reply = tuple[int, bytes, Mapping[str, str]]


class LanguageModelServer:
    """Answers each request with the next of ``replies``, the last one again and again. Use it in a ``with`` statement.

    A reply is a status, a body and headers, or a function that is called with the handler.
    """

    def __init__(self, *replies: Reply | Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                served.requests.append(json.loads(body))
                served.headers.append(dict(self.headers))
                reply = replies[min(len(served.requests), len(replies)) - 1]
                if callable(reply):
                    return reply(self)
                status, answer, headers = reply
                self.send_response(status)
                for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)
                return None

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> LanguageModelServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def good(content: Any = None) -> Reply:
    """A completion with a plan as JSON, or with ``content``."""
    return 200, completion(json.dumps(PLAN) if content is None else content), {}


def refusal(status: int, message: str = "", **headers: str) -> Reply:
    """An error as OpenAI's servers send it."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, json.dumps({"error": {"message": message}}).encode(), names


def silent(handler: BaseHTTPRequestHandler) -> None:
    """Says nothing for longer than any test waits."""
    time.sleep(5)


def half(handler: BaseHTTPRequestHandler) -> None:
    """Ends in the middle of the body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def megabytes(handler: BaseHTTPRequestHandler) -> None:
    """More text than any plan has."""
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b"a" * 65_536)
    except OSError:
        pass
