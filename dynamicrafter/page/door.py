"""The door of the page: which requests reach Gradio, and what of a visitor's they may name.

An ASGI application around another. It knows nothing of Gradio but the form of its addresses and of its files.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import json
import os
import re
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from ..bounded_json import parse_json
from ..errors import UsageError
from .limits import Limits
from .shelf import is_identifier

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "dynamicrafter_visitor"
"""The secret by which a browser sees its own clips; a client of the API sends one of its own."""
VISITOR, OWNER = b"x-dynamicrafter-visitor", b"x-dynamicrafter-owner"
"""Headers by which the application is told who asks; those of a request are dropped."""
FILES = "/gradio_api/file="
HEALTH = "/health"
_UPLOAD = "/gradio_api/upload"
_OPEN = re.compile(
    r"/|/(?:config|info|theme\.css|favicon\.ico|robots\.txt|manifest\.json|pwa_icon(?:/\d+)?)/?"
    r"|/(?:assets|static|svelte|results)/.*"
    r"|/gradio_api/(?:info|app_id|startup-events|upload|upload_progress|queue/join|queue/data|cancel|reset|heartbeat/\w+"
    r"|call/\w+(?:/\w+)?|login_check|token|user|theme\.css|file=.*)/?",
    re.DOTALL,
)
"""The addresses that the page and its API need; Gradio has others, such as for fetching files from elsewhere."""
_BODY = 200_000
"""Bytes of a request that is not an upload."""
_ENVELOPE = 100_000
"""Bytes around an uploaded file."""
_UPLOADS = 2_000
"""How many uploads are remembered; the oldest are forgotten."""
_TRIES, _WITHIN = 10, 60.0
"""Wrong passwords of an address within this many seconds, after which it has to wait."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """Who may open the page, and from where."""

    host: str = "127.0.0.1"
    """Address at which the server listens."""
    names: tuple[str, ...] = ()
    """Names under which it is reached, besides this machine's own."""
    root: str = ""
    """Path below which it is reached, such as ``/studio``; empty for the top."""
    embed: tuple[str, ...] = ()
    """Origins of the sites that may show it in a frame."""
    logins: Mapping[str, str] = field(default_factory=dict[str, str])
    """Passwords by name; empty if everyone may."""

    def __post_init__(self) -> None:
        """Raise UsageError for a root or a site that is not of the expected form."""
        if self.root and not re.fullmatch(r"(/[\w.~-]+)+", self.root):
            raise UsageError(
                f"the root path must be like /studio, without a slash at its end, not {self.root!r}"
            )
        for origin in self.embed:
            if not re.fullmatch(r"https?://[\w.-]+(:\d+)?", origin):
                raise UsageError(
                    f"a site that embeds the page must be like https://example.org, not {origin!r}"
                )

    def allows_host(self, header: str) -> bool:
        """Whether a request to this host (a name, perhaps with a port) is for this page."""
        with suppress(ValueError):
            name = (urlsplit(f"//{header}").hostname or "").rstrip(".")
            if name in (*_LOOPBACK, *(one.lower() for one in (self.host, *self.names))):
                return True
            # A page of someone else can have its own name resolved to this machine, but not an address.
            return self.host not in _LOOPBACK and bool(ipaddress.ip_address(name))
        return False


def read_logins(path: Path) -> dict[str, str]:
    """Names and passwords from a file with ``name:password`` on each line.

    Raises UsageError if it cannot be read, can be read by others, or has no login.
    """
    try:
        # Windows has no such modes.
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise UsageError(
                f"{path} contains passwords that others on this machine can read; run chmod 600 on it"
            )
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as problem:
        raise UsageError(
            f"the logins in {path} cannot be read ({problem}); check the name of the file"
        ) from problem
    found = {
        name: password
        for name, colon, password in (line.partition(":") for line in lines)
        if colon and password
    }
    if not found:
        raise UsageError(f"{path} contains no login; write name:password on a line of it")
    return found


class Uploads:
    """Which visitors have uploaded which files; files with the same content have the same path."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, set[str]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, visitor: str, paths: Iterable[str]) -> None:
        """Remember uploads."""
        with self._lock:
            for path in paths:
                self._owners.setdefault(path, set()).add(visitor)
                self._owners.move_to_end(path)
            while len(self._owners) > _UPLOADS:
                self._owners.popitem(last=False)

    def has(self, visitor: str, path: str) -> bool:
        """Whether ``visitor`` has uploaded the file with exactly this path."""
        with self._lock:
            return visitor in self._owners.get(path, ())


class _Refused(Exception):
    def __init__(self, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


class Door:
    """Passes on the requests that are allowed; ``shared`` is a folder whose files everyone may see."""

    def __init__(self, inside: Application, access: Access, limits: Limits, shared: Path) -> None:
        self._inside, self._access, self._limits = inside, access, limits
        self._shared = shared.resolve()
        self.uploads = Uploads()
        self._failures: dict[str, deque[float]] = {}
        sites = " ".join(("'self'", *access.embed))
        self._headers = [
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (
                b"content-security-policy",
                # Gradio's page has scripts and styles of its own in it; nothing is loaded from elsewhere.
                "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
                "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; "
                f"frame-ancestors {sites}".encode(),
            ),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._inside(scope, receive, send)
            return
        try:
            await self._admit(scope, receive, send)
        except _Refused as refused:
            await _answer(send, refused.status, refused.reason, *refused.headers, *self._headers)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        host = headers.get(b"host", "")
        if not self._access.allows_host(host):
            raise _Refused(
                421, "this page is not reached under this name; whoever runs it adds it with --name"
            )
        method, path = scope["method"], self._path(scope)
        if method not in ("GET", "HEAD", "POST"):
            raise _Refused(405, "only GET, HEAD and POST are answered")
        if path == HEALTH:
            await self._inside({**scope, "path": HEALTH, "root_path": ""}, receive, send)
            return
        self._check_origin(method, host, headers)
        client = (scope.get("client") or ("", 0))[0]
        owner = self._login(headers, client)
        if not _OPEN.fullmatch(path):
            raise _Refused(404, "there is nothing here")
        visitor, known = _visitor(headers)
        if path.startswith(FILES):
            self._check_file(visitor, path.removeprefix(FILES))
        limit = self._limits.upload * 1_000_000 + _ENVELOPE if path == _UPLOAD else _BODY
        receive = await self._bounded(method, path, visitor, headers, receive, limit)
        inner = [pair for pair in scope["headers"] if pair[0] not in (VISITOR, OWNER)]
        inner += [(VISITOR, visitor.encode()), (OWNER, owner.encode())]
        more = [*self._headers, *([] if known else [self._cookie(scope, visitor)])]
        passed = {**scope, "path": path, "raw_path": path.encode(), "root_path": "", "headers": inner}
        await self._inside(passed, receive, self._noting(path, visitor, more, send))

    def _path(self, scope: Scope) -> str:
        """The path of a request below the root, whether or not a proxy has cut that off."""
        path, root = scope["path"], self._access.root
        return (path.removeprefix(root) or "/") if root and (path + "/").startswith(root + "/") else path

    def _check_origin(self, method: str, host: str, headers: Mapping[bytes, str]) -> None:
        """Raise unless a request comes from this page itself, from a link to it or from no page at all."""
        origin = headers.get(b"origin")
        same = origin is None or urlsplit(origin).netloc.lower() == host.lower()
        if not same and not (method != "POST" and origin == "null"):
            raise _Refused(403, "this page answers no requests of other sites")
        if method == "POST" and headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise _Refused(403, "this page answers no requests of other sites")

    def _login(self, headers: Mapping[bytes, str], client: str) -> str:
        """Whose limits hold: the login, or the address if everyone may. Raises for a wrong password."""
        if not self._access.logins:
            return f"address {client}"
        now = time.monotonic()
        failures = self._failures.setdefault(client, deque(maxlen=_TRIES))
        while failures and failures[0] < now - _WITHIN:
            failures.popleft()
        if len(failures) == _TRIES:
            raise _Refused(429, "there were too many wrong passwords; wait a minute")
        kind, _, given = headers.get(b"authorization", "").partition(" ")
        name = password = ""
        if kind.lower() == "basic":
            with suppress(ValueError, binascii.Error):
                name, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        right = self._access.logins.get(name, "")
        if right and hmac.compare_digest(right.encode(), password.encode()):
            if not failures:
                self._failures.pop(client, None)
            return f"login {name}"
        if given:
            failures.append(now)
        else:
            self._failures.pop(client, None)
        raise _Refused(
            401, "a login is needed", (b"www-authenticate", b'Basic realm="dynamicrafter", charset="UTF-8"')
        )

    def _check_file(self, visitor: str, path: str) -> None:
        """Raise unless a file is an upload of this visitor or one that is shared."""
        if not self.uploads.has(visitor, path) and not self._is_shared(path):
            raise _Refused(403, "this file is not yours")

    def _is_shared(self, path: str) -> bool:
        with suppress(OSError, ValueError):
            place = Path(path)
            return place.is_absolute() and place.resolve(strict=True).parent == self._shared
        return False

    async def _bounded(
        self, method: str, path: str, visitor: str, headers: Mapping[bytes, str], receive: Receive, limit: int
    ) -> Receive:
        """What receives the body, which is within its limit and names only files of this visitor."""
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            raise _Refused(413, f"at most {limit} bytes are taken")
        if method != "POST":
            return receive
        if path == _UPLOAD:
            if b"content-length" not in headers:
                raise _Refused(411, "the length of an upload must be given")
            return receive
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            if len(body) > limit:
                raise _Refused(413, f"at most {limit} bytes are taken")
            if not message.get("more_body", False):
                break
        self._check_body(visitor, bytes(body))
        pending: list[Event] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Event:
            return pending.pop() if pending else await receive()

        return replay

    def _check_body(self, visitor: str, body: bytes) -> None:
        """Raise if a request names a file that it may not, or the address of one."""
        try:
            values = parse_json(body) if body else None
        except ValueError as problem:
            raise _Refused(400, f"this is not what the page sends: {problem}") from problem
        for file in _objects(values):
            path, url = file.get("path"), file.get("url")
            # Gradio fetches what it takes for the address of a file.
            if isinstance(path, str):
                self._check_file(visitor, path)
            elif path is not None:
                raise _Refused(403, "the path of a file must be a string")
            if url is not None and not (isinstance(path, str) and _is_own(url)):
                raise _Refused(403, "this page fetches nothing from other addresses; upload the file")

    def _cookie(self, scope: Scope, visitor: str) -> tuple[bytes, bytes]:
        parts = [f"{COOKIE}={visitor}", f"Path={self._access.root or '/'}", "HttpOnly", "Max-Age=31536000"]
        secure = scope.get("scheme") == "https"
        # Within the frame of another site, browsers send only cookies that say so, over https alone.
        parts += (
            ["SameSite=None", "Partitioned", "Secure"] if secure and self._access.embed else ["SameSite=Lax"]
        )
        if secure and not self._access.embed:
            parts.append("Secure")
        return b"set-cookie", "; ".join(parts).encode()

    def _noting(self, path: str, visitor: str, more: list[tuple[bytes, bytes]], send: Send) -> Send:
        """``send`` that adds headers, and remembers the paths of uploads before the visitor knows them."""
        collected = bytearray()

        async def noted(message: Event) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in more} - {b"set-cookie"}
                kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in names]
                message = {**message, "headers": [*kept, *more]}
            elif path == _UPLOAD and message["type"] == "http.response.body":
                collected.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    self.uploads.note(visitor, _strings(bytes(collected)))
            await send(message)

        return noted


def _headers(scope: Scope) -> dict[bytes, str]:
    """The headers of a request; raises for one that must be there once and is there twice."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in found and name in (b"host", b"origin", b"content-length", b"authorization"):
            raise _Refused(400, "a header is there twice")
        # Browsers may send several cookie headers over HTTP/2.
        text = value.decode("latin-1")
        found[name] = f"{found[name]}; {text}" if name == b"cookie" and name in found else text
    return found


def _visitor(headers: Mapping[bytes, str]) -> tuple[str, bool]:
    """The secret of a browser, and whether it had one."""
    for part in headers.get(b"cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE and is_identifier(value):
            return value, True
    return secrets.token_hex(16), False


def _objects(values: object) -> Iterable[Mapping[str, Any]]:
    """All JSON objects with a path or an address inside ``values``."""
    if isinstance(values, dict):
        found = cast(dict[str, Any], values)
        if "path" in found or "url" in found:
            yield found
        values = list(found.values())
    if isinstance(values, list):
        for value in cast(list[object], values):
            yield from _objects(value)


def _is_own(url: object) -> bool:
    """Whether an address is that of a file on this page."""
    if not isinstance(url, str):
        return False
    with suppress(ValueError):
        return urlsplit(url).scheme in ("", "http", "https") and FILES in urlsplit(url).path
    return False


def _strings(body: bytes) -> list[str]:
    try:
        values = json.loads(body)
    except ValueError:
        return []
    found = cast(list[object], values) if isinstance(values, list) else []
    return [value for value in found if isinstance(value, str)]


async def _answer(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = text.encode()
    plain = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers]})
    await send({"type": "http.response.body", "body": body})
