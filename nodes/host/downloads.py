"""Downloads of released files into ComfyUI's model folders, by the button on a node.

A download is started by ``POST /dynamicrafter/download/NAME`` and by nothing else; no node imports this module, so no
workflow can start one. The request must come from a page of this server and carry the token that only its own scripts
can read, so that another site cannot send it, nor a script by accident; a program on this machine that forges a
browser's headers can. A server that is started with
``DYNAMICRAFTER_ALLOW_DOWNLOADS=1`` also accepts requests of scripts, with any token. Only files of the catalogue are
downloaded, one download at a time.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

import folder_paths
from aiohttp import web
from server import PromptServer

from ...dynamicrafter.errors import Cancelled, DownloadError, DynamiCrafterError
from ...dynamicrafter.weights.catalogue import RELEASES, Release, find, with_requirements
from ...dynamicrafter.weights.download import bytes_to_download, download
from ..words import WORDS
from .files import encoders_path, list_checkpoints

ALLOW = "DYNAMICRAFTER_ALLOW_DOWNLOADS"
"""Environment variable that lets scripts start downloads; read when the server starts."""
HEADER = "X-DynamiCrafter-Token"
"""A header that a page of another site cannot send."""

_TOKEN = secrets.token_urlsafe(24)
_SCRIPTS_MAY = os.environ.get(ALLOW) == "1"
_FILES = {release.saved_as: release for release in RELEASES}
_log = logging.getLogger(__name__)


@dataclass
class Transfer:
    """The download in progress, or the last one; written by its thread and read by the routes."""

    name: str
    """What was asked for; its encoders come with it."""
    file: str = ""
    stage: str = "downloading"
    done: int = 0
    """Bytes of ``file``."""
    total: int | None = None
    running: bool = True
    cancelled: bool = False
    error: str = ""


class _Downloads:
    """At most one running transfer."""

    def __init__(self) -> None:
        self.transfer: Transfer | None = None
        self._lock = threading.Lock()

    def start(self, release: Release) -> None:
        """Start a thread; raises DownloadError if one is running or the disk is too small."""
        with self._lock:
            if self.transfer is not None and self.transfer.running:
                raise DownloadError(
                    f"{self.transfer.name} is being downloaded; wait until it is done, or cancel it"
                )
            plan = [
                (needed, _target(needed)) for needed in with_requirements(release) if _here(needed) is None
            ]
            _require_space(plan)
            self.transfer = Transfer(release.saved_as)
            threading.Thread(target=_run, args=(self.transfer, plan), daemon=True).start()

    def cancel(self) -> None:
        """Stop the transfer; what has arrived is kept for the next one."""
        if self.transfer is not None:
            self.transfer.cancelled = True


def _run(transfer: Transfer, plan: list[tuple[Release, Path]]) -> None:
    def progress(stage: str, done: int, total: int | None) -> None:
        if transfer.cancelled:
            raise Cancelled
        transfer.stage, transfer.done, transfer.total = stage, done, total

    try:
        for release, target in plan:
            transfer.file, transfer.stage = target.name, "downloading"
            transfer.done, transfer.total = 0, release.size_bytes
            _log.info("downloading %s to %s", release.url, target)
            download(release, progress=progress, target=target)
    except Cancelled:
        _log.info("the download of %s was cancelled", transfer.name)
    except DynamiCrafterError as problem:
        transfer.error = problem.said(WORDS)
    except Exception as problem:
        _log.exception("the download of %s failed", transfer.name)
        transfer.error = f"the download of {transfer.name} failed ({problem}); ComfyUI's log has the details"
    finally:
        transfer.running = False


def _target(release: Release) -> Path:
    kind = "text_encoders" if release.kind == "towers" else "checkpoints"
    return Path(folder_paths.get_folder_paths(kind)[0]) / release.saved_as


def _listed() -> dict[str, str]:
    """The checkpoints that are here as the list of files calls them, by their names without a folder."""
    return {PurePath(name).name: name for name in reversed(list_checkpoints())}


def _here(release: Release, listed: Mapping[str, str] | None = None) -> str | None:
    """What the list of files calls a file that is here, or None; ``listed`` are the checkpoints, if known already."""
    if release.kind == "towers":
        return None if encoders_path() is None else release.saved_as
    return (_listed() if listed is None else listed).get(release.saved_as)


def _require_space(plan: list[tuple[Release, Path]]) -> None:
    """Raise DownloadError unless all files together fit, before the first byte is asked for."""
    needed: defaultdict[Path, int] = defaultdict(int)
    for release, target in plan:
        target.parent.mkdir(parents=True, exist_ok=True)
        needed[target.parent] += bytes_to_download(release, target)
    disks: defaultdict[int, int] = defaultdict(int)
    for folder, size in needed.items():
        disk = folder.stat().st_dev
        disks[disk] += size
        free = shutil.disk_usage(folder).free
        if free < disks[disk]:
            raise DownloadError(
                f"{' and '.join(target.name for _, target in plan)} need {disks[disk] / 1e9:.2f} GB in {folder}, but "
                f"only {free / 1e9:.2f} GB are free; free some space"
            )


def _is_own_page(request: web.Request) -> bool:
    """Whether a request was sent by a script of a page of this server."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    # Browsers leave that header out where the connection is not secure, as in a local network.
    source = request.headers.get("Origin") or request.headers.get("Referer")
    return source is not None and urlsplit(source).netloc == request.host


def _refusal(request: web.Request) -> str:
    """Why a request must not start or stop a download, or nothing."""
    token = request.headers.get(HEADER)
    if _is_own_page(request):
        if token is not None and secrets.compare_digest(token.encode(), _TOKEN.encode()):
            return ""
        return "the token of this page is not that of the server, which was restarted; reload the page"
    foreign = {"Sec-Fetch-Site", "Origin", "Referer"} & set(request.headers)
    if _SCRIPTS_MAY and token is not None and not foreign:
        return ""
    return (
        "downloads are started by the button on a node; to start them by a script, start ComfyUI with "
        f"{ALLOW}=1 in its environment and send the header {HEADER}"
    )


def _answer(error: str, status: int) -> web.Response:
    return web.json_response({"error": error}, status=status)


def _listing() -> dict[str, Any]:
    """The catalogue with what is here, and the transfer."""
    encoders, listed = find("towers"), _listed()
    files = {
        name: {
            "bytes": release.about_bytes,
            "variant": release.variant,
            "encoders": encoders.saved_as in {needed.saved_as for needed in with_requirements(release)},
            "recommended": release.variant is not None and find(release.variant) is release,
            "here": _here(release, listed),
        }
        for name, release in _FILES.items()
    }
    return {"files": files, "encoders": encoders.saved_as}


def register_routes() -> None:
    """Add the routes to ComfyUI's, which serves each of them below ``/api`` too."""
    routes = PromptServer.instance.routes
    downloads = _Downloads()

    @routes.get("/dynamicrafter/files")
    async def files(request: web.Request) -> web.Response:
        transfer = downloads.transfer
        answer = {**_listing(), "transfer": None if transfer is None else asdict(transfer)}
        if _is_own_page(request):
            answer["token"] = _TOKEN
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    @routes.get("/dynamicrafter/download")
    async def progress(request: web.Request) -> web.Response:
        transfer = downloads.transfer
        return web.json_response(
            None if transfer is None else asdict(transfer), headers={"Cache-Control": "no-store"}
        )

    @routes.post("/dynamicrafter/download/{name}")
    async def start(request: web.Request) -> web.Response:
        if refusal := _refusal(request):
            return _answer(refusal, 403)
        release = _FILES.get(request.match_info["name"])
        if release is None:
            return _answer(
                f"{request.match_info['name']} is not a released file; GET /dynamicrafter/files lists them",
                404,
            )
        try:
            downloads.start(release)
        except (DownloadError, OSError) as problem:
            return _answer(str(problem), 409)
        return web.json_response({}, status=202)

    @routes.post("/dynamicrafter/cancel")
    async def cancel(request: web.Request) -> web.Response:
        if refusal := _refusal(request):
            return _answer(refusal, 403)
        downloads.cancel()
        return web.json_response({})
