"""Downloads released files: interrupted transfers resume, and files are verified before they are renamed into place.

A file is stored at ``<weights folder>/<owner>/<repository>/<file name>``, so a file downloaded manually can be placed
there too. During the transfer it is called ``<file name>.<part of its sha256>.part`` and is renamed only after
verification.

All traffic is plain HTTP by huggingface_hub, with its login, proxy settings and timeouts; the ``hf_xet`` transport is
never used, so any mirror or web server with the hub's URL scheme works. To use one, set ``HF_ENDPOINT``, for example to
``https://hf-mirror.com``, or pass ``endpoint=``. ``HF_HUB_OFFLINE=1`` forbids all traffic. Both variables are read at
each call, not at import.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from ..errors import DownloadError
from .catalogue import ALL_RELEASES, HUB, Release

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

TransferProgress = Callable[[str, int, "int | None"], None]
"""Called with the stage (``"downloading"`` or ``"checking"``), the bytes done and, if known, the total.

It may raise an exception, such as :class:`~dynamicrafter.errors.Cancelled`; the bytes received so far are kept.
"""

ATTEMPTS = 3
"""Number of consecutive connection failures without a new byte after which a download fails."""
CHUNK = 1 << 23
"""Bytes read at a time during verification."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


def weights_folder() -> Path:
    """The folder for downloads: ``DYNAMICRAFTER_HOME``, else ``dynamicrafter`` in the user's cache folder.

    The cache folder is ``%LOCALAPPDATA%`` on Windows, ``~/Library/Caches`` on macOS, and ``XDG_CACHE_HOME`` or
    ``~/.cache`` elsewhere. The folder need not exist.
    """
    chosen = os.environ.get("DYNAMICRAFTER_HOME")
    if chosen:
        return Path(chosen).expanduser()
    return _cache_folder(sys.platform) / "dynamicrafter"


_PART = ".part"
"""How the name of an unfinished file ends."""


def local_path(release: Release, folder: Path | None = None) -> Path | None:
    """Path of ``release`` in ``folder`` (default :func:`weights_folder`), or None if it is missing or incomplete.

    Downloads get this name only after verification; the size is compared too, if known, in case the file was placed
    there manually.
    """
    return _if_complete(release, _final_path(release, folder))


def is_incomplete(release: Release, folder: Path | None = None) -> bool:
    """Whether ``release`` is in ``folder`` (default :func:`weights_folder`), but not of the released size."""
    return _final_path(release, folder).is_file() and local_path(release, folder) is None


def bytes_to_download(release: Release, target: Path) -> int:
    """About how many bytes :func:`download` to ``target`` still has to transfer: less if it was interrupted before."""
    started = target.parent.glob(f"{target.name}.*{_PART}")
    return release.about_bytes - max((part.stat().st_size for part in started), default=0)


def _if_complete(release: Release, path: Path) -> Path | None:
    if not path.is_file():
        return None
    if release.size_bytes is not None and path.stat().st_size != release.size_bytes:
        return None
    return path


def status_rows(folder: Path | None = None) -> list[tuple[Release, Path | None]]:
    """Every known release with its :func:`local_path`, in the catalogue's order."""
    return [(release, local_path(release, folder)) for release in ALL_RELEASES]


def download(
    release: Release,
    folder: Path | None = None,
    progress: TransferProgress | None = None,
    *,
    target: Path | None = None,
    endpoint: str | None = None,
) -> Path:
    """Download ``release`` into ``folder`` (default :func:`weights_folder`), or to ``target``, and return its path.

    If the file is already there, its path is returned without any traffic; a transfer that was interrupted, in this or
    an earlier call, resumes. The sha256 is checked against the catalogue's, or the server's if the catalogue has none.
    Nothing is printed; ``progress`` is called instead. The releases in ``release.requires`` are not downloaded.

    Raises DownloadError with a one-sentence remedy if offline mode is on, the server cannot be reached, denies access,
    does not have the file or has a different one, the disk is full or not writable, another process is downloading the
    same file, or the contents are wrong (in which case they are removed).
    """
    final = target or _final_path(release, folder)
    present = _if_complete(release, final)
    if present is not None:
        return present
    server = _server(endpoint)
    if _is_set("HF_HUB_OFFLINE"):
        raise DownloadError(_offline(release, final))
    offer = _ask(release, server, final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _alone(release, final):
            part = final.with_name(
                f"{final.name}.{offer.sha256[:12] if offer.sha256 else 'unchecked'}{_PART}"
            )
            if offer.sha256 is None:
                # Without a hash it is unknown whether an old part belongs to the file now offered.
                part.unlink(missing_ok=True)
            _require_space(
                release, offer, part, "" if target else " or set DYNAMICRAFTER_HOME to a larger disk"
            )
            _transfer(release, server, offer, part, progress)
            _check(release, server, offer, part, progress)
            os.replace(part, final)
    except OSError as error:
        raise DownloadError(
            f"{release.name} could not be stored in {final.parent} ({error.strerror or error}); "
            f"make that folder writable{'' if target else ' or set DYNAMICRAFTER_HOME to another one'}"
        ) from error
    return final


@dataclass(frozen=True)
class _Offer:
    """A server's description of a file."""

    url: str
    token: bool | None
    """False if the file is to be requested without the user's token."""
    size: int | None
    sha256: str | None
    """Expected hash of the contents, from the catalogue or else from the server."""


def _ask(release: Release, server: str, final: Path) -> _Offer:
    """Ask ``server`` about the file; raises DownloadError if it has none or a different one."""
    hub = _hub()
    url = hub.hf_hub_url(release.repository, release.filename, revision=release.revision, endpoint=server)
    token = None
    try:
        try:
            metadata = hub.get_hf_file_metadata(url, token=token)
        except Exception as error:
            if _status(error) != 401:
                raise
            # An expired stored token is rejected even for public files.
            token = False
            metadata = hub.get_hf_file_metadata(url, token=token)
    # requests, httpx and httpx2 share no base class, and huggingface_hub's version decides which one it is.
    except Exception as error:
        raise DownloadError(_sentence(error, release, server, final)) from error
    announced: str | None = metadata.etag if _SHA256.fullmatch(metadata.etag or "") else None
    size: int | None = metadata.size
    for what, wanted, offered in (
        ("size", release.size_bytes, size),
        ("sha256", release.sha256, announced),
    ):
        if wanted is not None and offered is not None and wanted != offered:
            raise DownloadError(
                f"{server} has a different file at {release.repository}/{release.filename}: "
                f"its {what} is {offered} instead of {wanted}; set HF_ENDPOINT to another mirror"
            )
    sha256 = release.sha256 or announced
    if sha256 is None:
        _log.warning("neither the catalogue nor %s knows the sha256 of %s", server, release.name)
    return _Offer(url, token, release.size_bytes or size, sha256)


def _require_space(release: Release, offer: _Offer, part: Path, elsewhere: str) -> None:
    """Raise DownloadError unless the disk has space for the remaining bytes; ``elsewhere`` ends its remedy."""
    if offer.size is None:
        return
    needed = offer.size - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise DownloadError(
            f"{release.name} needs {needed / 1e9:.2f} GB more in {part.parent}, "
            f"but only {free / 1e9:.2f} GB are free; free some space{elsewhere}"
        )


def _transfer(
    release: Release, server: str, offer: _Offer, part: Path, progress: TransferProgress | None
) -> None:
    """Download ``part`` to its full length, resuming after each interruption as long as there is progress."""
    hub = _hub()
    # A compressed response could not be resumed at a byte offset of the file.
    headers = {**hub.build_hf_headers(token=offer.token), "Accept-Encoding": "identity"}
    furthest, idle = 0, 0
    while True:
        with _Part(part, offer.size, progress) as file, _no_bar():
            if offer.size is not None and file.tell() > offer.size:
                file.seek(0)
                file.truncate()
            furthest = max(furthest, file.tell())
            try:
                hub.http_get(
                    offer.url,
                    file,
                    resume_size=file.tell(),
                    headers=headers,
                    expected_size=offer.size,
                )
            # As in _ask: the exceptions of three HTTP libraries share no base class.
            except Exception as error:
                if file.failed:
                    raise
                idle = 0 if file.tell() > furthest else idle + 1
                status = _status(error)
                if status == 416:
                    # Nothing follows the bytes of an earlier call, so start from scratch.
                    file.seek(0)
                    file.truncate()
                elif status is not None and status < 500:
                    idle = ATTEMPTS
                if idle >= ATTEMPTS:
                    raise DownloadError(_sentence(error, release, server, part, file.tell())) from error
            else:
                # Flush the contents before the rename, so that a power failure cannot leave a truncated file.
                os.fsync(file.fileno())
                return
        time.sleep(2**idle)


def _check(
    release: Release, server: str, offer: _Offer, part: Path, progress: TransferProgress | None
) -> None:
    """Verify the hash of ``part``; remove it and raise DownloadError if it is wrong."""
    if offer.sha256 is None:
        return
    size = part.stat().st_size
    digest = hashlib.sha256()
    with part.open("rb") as file:
        for block in iter(lambda: file.read(CHUNK), b""):
            digest.update(block)
            if progress is not None:
                progress("checking", file.tell(), size)
    if digest.hexdigest() != offer.sha256:
        part.unlink()
        raise DownloadError(
            f"{server} sent wrong contents for {release.name} (sha256 {digest.hexdigest()} instead of "
            f"{offer.sha256}); they were removed, so try again or set HF_ENDPOINT to another mirror"
        )


class _Part(io.FileIO):
    """The partial file: appends, reports progress, and records whether a failure was its own."""

    def __init__(self, path: Path, size: int | None, progress: TransferProgress | None) -> None:
        super().__init__(str(path), "ab")
        self.failed = False
        self._size = size
        self._progress = progress

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data)
        left = view
        try:
            # An unbuffered write may be partial.
            while left:
                left = left[super().write(left) :]
            if self._progress is not None:
                self._progress("downloading", self.tell(), self._size)
        except BaseException:
            self.failed = True
            raise
        return len(view)


@contextmanager
def _alone(release: Release, final: Path) -> Generator[None, None, None]:
    """Hold a lock on the download of ``final``; two writers would corrupt the partial file."""
    from filelock import FileLock, Timeout

    path = Path(f"{final}.lock")
    try:
        with FileLock(path, timeout=0):
            try:
                yield
            finally:
                # Windows cannot remove an open file, but removes this one when the lock is released.
                with suppress(OSError):
                    path.unlink()
    except Timeout as error:
        raise DownloadError(
            f"another process is downloading {release.name} into {final.parent}; wait until it is done"
        ) from error


@contextmanager
def _no_bar() -> Generator[None, None, None]:
    """Keep huggingface_hub from showing its own progress bar on stderr."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    group = "huggingface_hub.http_get"
    if are_progress_bars_disabled(group):
        yield
        return
    disable_progress_bars(group)
    try:
        yield
    finally:
        enable_progress_bars(group)


def _hub() -> Any:
    """huggingface_hub's download module; its signatures are only partly typed."""
    from huggingface_hub import file_download

    return cast(Any, file_download)


def _sentence(error: Exception, release: Release, server: str, path: Path, so_far: int = 0) -> str:
    """One sentence on ``error``, which was raised while requesting ``release`` from ``server``."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return _offline(release, path)
    what = f"{release.repository}/{release.filename}"
    status = _status(error)
    if status in (401, 403):
        return (
            f"{server} denied access to {what} (HTTP {status}); log in with 'hf auth login', renew HF_TOKEN, "
            f"or set HF_ENDPOINT to a mirror"
        )
    if status == 404:
        return (
            f"{server} does not have {what} at revision {release.revision} (HTTP 404); "
            f"set HF_ENDPOINT to another mirror"
        )
    if status is not None:
        return (
            f"{server} failed to send {what} (HTTP {status}); try again later or set HF_ENDPOINT to a mirror"
        )
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if so_far:
        return (
            f"the connection to {server} kept breaking after {so_far / 1e9:.2f} GB of {release.name} "
            f"({reason}); start again to resume from there"
        )
    return (
        f"{server} could not be reached for {release.name} ({reason}); check the connection and HF_ENDPOINT, "
        f"or set it to a mirror"
    )


def _offline(release: Release, path: Path) -> str:
    return (
        f"{release.name} is not in {path.parent} and offline mode forbids downloading it; "
        f"unset HF_HUB_OFFLINE or put {release.filename} there manually"
    )


def _status(error: Exception) -> int | None:
    """The HTTP status of ``error``, or None if there was no response."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _server(endpoint: str | None) -> str:
    """The server's URL without a trailing slash; raises DownloadError if it is not a web address."""
    address = (endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise DownloadError(
            f"HF_ENDPOINT must be a web address such as {HUB}, but it is {address!r}; correct or unset it"
        )
    return address


def _is_set(variable: str) -> bool:
    """Whether a boolean environment variable is set, by huggingface_hub's rules."""
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")


def _final_path(release: Release, folder: Path | None) -> Path:
    return (folder or weights_folder()).joinpath(*release.repository.split("/"), release.filename)


def _cache_folder(platform: str) -> Path:
    """The user's cache folder on ``platform`` (a ``sys.platform``)."""
    if platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
