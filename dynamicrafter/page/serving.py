"""The page as a web server: Gradio behind the door, and the addresses of results."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .blocks import Page
from .desk import Desk
from .door import HEALTH, VISITOR, Access, Application, Door
from .examples import draw_examples
from .library import gradio, web_library
from .shelf import MEDIA_TYPES

_GRACE = 3
"""Seconds for requests that are being answered when the server ends."""


@dataclass(frozen=True)
class Listening:
    """Where the server listens."""

    host: str = "127.0.0.1"
    port: int = 7860
    """0 for one that is free."""
    proxies: str = ""
    """Addresses of the reverse proxies whose X-Forwarded headers are believed, separated by commas."""


def page_application(desk: Desk, access: Access, work: Path) -> Application:
    """The page as an ASGI application; ``work`` is an empty folder for uploads and examples.

    Raises UsageError if gradio is not installed.
    """
    gr = gradio(work / "uploads")
    gr.set_static_paths([work / "examples"])
    examples = draw_examples(work / "examples")
    page = Page(gr, desk, examples, access.root)
    application: Any = web_library("fastapi").FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _add_routes(application, desk)
    mounted = gr.mount_gradio_app(
        application,
        page.build(),
        path="",
        root_path=access.root or None,
        max_file_size=desk.limits.upload * 1_000_000,
        show_error=False,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        pwa=False,
        **page.looks(),
    )
    return Door(mounted, access, desk.limits, work / "examples")


def _add_routes(application: Any, desk: Desk) -> None:
    """The addresses that are not Gradio's."""
    responses = web_library("starlette.responses")

    async def health(request: Any) -> Any:
        state = {"alive": desk.line.alive, "waiting": desk.line.length}
        return responses.JSONResponse(state, status_code=200 if desk.line.alive else 503)

    async def result(request: Any) -> Any:
        found = request.path_params
        kind = found["name"].removeprefix("clip.")
        visitor = request.headers[VISITOR.decode()]
        path = await asyncio.to_thread(desk.shelf.find, visitor, found["job"], kind)
        if path is None:
            return responses.PlainTextResponse("there is no such clip of yours", status_code=404)
        private = {"cache-control": "private, max-age=3600"}
        return responses.FileResponse(path, media_type=MEDIA_TYPES[kind], headers=private)

    application.add_route(HEALTH, health, methods=["GET"])
    application.add_route("/results/{job}/{name}", result, methods=["GET", "HEAD"])


def serve_page(desk: Desk, access: Access, listening: Listening, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; ``ready`` is called with its address. Raises UsageError without gradio."""
    uvicorn = web_library("uvicorn")
    with ExitStack() as leaving:
        leaving.callback(desk.close)
        work = Path(tempfile.mkdtemp(prefix="dynamicrafter-page-"))
        leaving.callback(shutil.rmtree, work, ignore_errors=True)
        application = page_application(desk, access, work)
        config = uvicorn.Config(
            application,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=bool(listening.proxies),
            forwarded_allow_ips=listening.proxies or None,
            timeout_graceful_shutdown=_GRACE,
            ws="none",
        )
        listener = leaving.enter_context(_bound(listening))
        port = listener.getsockname()[1]
        name = f"[{listening.host}]" if ":" in listening.host else listening.host
        ready(f"http://{name}:{port}{access.root}/")
        uvicorn.Server(config).run(sockets=[listener])


def _bound(listening: Listening) -> socket.socket:
    """The socket to listen at; raises UsageError if the address or the port is not free."""
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # There it would let two servers have one port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((listening.host, listening.port))
    except OSError as problem:
        listener.close()
        raise UsageError(
            f"the page cannot listen at {listening.host}, port {listening.port} ({problem.strerror or problem}); "
            f"choose another --port or --host"
        ) from problem
    return listener
