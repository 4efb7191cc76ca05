"""Running ComfyUI servers as workers: images are uploaded, a graph of this pack's node is queued, frames are fetched.

What a server answers is not trusted: answers are bounded, no name in them becomes that of a file here, redirections are
not followed, and frames are decoded as PNG of the expected size and count; clips are written here.
"""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from ..api import BUILT_IN
from ..bounded_json import parse_json
from ..errors import Cancelled, DynamiCrafterError, UsageError
from ..forms import shortened
from ..media.pictures import read_picture
from ..settings import Settings, make_settings
from ..weights.catalogue import find
from .lines import Job, ModelChoice, is_path, named_variant
from .pool import Lost, Take, Tell, Worker

_NODE = "DynamiCrafterAnimate"
_FRAMES = "frames"
"""The node of our graph whose images are the result."""
_INPUTS = {"prompt": "prompt", "negative": "negative_prompt"} | {
    name: name for name in ("fs", "seed", "steps", "cfg", "frames", "fps", "width", "height", "fit")
}
"""Settings that the node has inputs for, and their names."""

_JSON_BYTES = 64_000_000
"""Maximum bytes of an answer that is JSON; the queue of a server contains all graphs."""
_OVERHEAD = 2_000_000
"""Maximum bytes of a PNG besides its pixels: the graph is stored in it."""
_SECONDS = 60.0
"""Maximum time without a byte, and for an answer that is JSON."""
_TRIES, _PAUSE = 3, 1.0
"""How often a question is asked while there is no connection, and the seconds in between."""
_POLL = 0.3
"""Seconds between two questions whether a clip is finished."""
_REMEMBERED = 1_000
"""How many uploaded images are remembered."""
_MISSED = 20
"""How many times a clip is not finished before its place in the queue is looked for."""


class _Trouble(Exception):
    """What a server did instead of answering, to follow its address in a sentence."""


class _NoAnswer(_Trouble):
    """There was no connection, or it ended before the answer."""


class _WrongFrames(_Trouble):
    """It finished a job, but its frames are not those of the job."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: it could lead anywhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None makes of it an answer like any other."""


def check_sendable(job: Job) -> None:
    """Raise UsageError if a server cannot generate a job."""
    _check_alone(job.model, f"line {job.line}")
    usual = make_settings(named_variant(job.model), job.settings.mode)
    # The sampler first, as the default of eta follows from it.
    for name, value in sorted(vars(job.settings).items(), key=lambda item: item[0] != "sampler"):
        if name not in (*_INPUTS, "mode") and value != getattr(usual, name):
            raise UsageError(
                f"line {job.line} sets {name} to {value!r}, for which the node of a server has no input; remove it, or "
                f"generate it on this machine"
            )


def _check_alone(model: ModelChoice, name: str) -> None:
    """Raise UsageError for a model that consists of more files than its checkpoint; ``name`` is what has it."""
    if model.loras or model.text_encoder or model.image_encoder:
        raise UsageError(
            f"{name} has LoRA files or encoders, which are not sent to a server; remove them, or generate it on this "
            f"machine"
        )


def server_workers(urls: Sequence[str], depth: int, jobs: Sequence[Job]) -> list[Worker]:
    """Workers for at most ``depth`` clips at once in the queue of each server, of which one is generated.

    Raises UsageError for an address that is not a URL or is given twice, for one at which there is no ComfyUI with this
    pack, for one that lacks a model of ``jobs``, and for a model with files that are not sent.
    """
    if depth < 1:
        raise UsageError(f"the queue of a server must have at least 1 place, but {depth} were given")
    places = [_address(url) for url in urls]
    twice = next((place for number, place in enumerate(places) if place in places[:number]), None)
    if twice is not None:
        raise UsageError(f"the server {twice} is specified more than once; specify each server once")
    servers = [ComfyServer(place) for place in places]
    models = list(dict.fromkeys(job.model for job in jobs))
    for model in models:
        _check_alone(model, model.asked)
    for server in servers:
        server.check(models)
    # One place of each before the second one of any, so that few jobs spread over all servers.
    return [ServerPlace(server) for _ in range(depth) for server in servers]


def _address(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        # What cannot be read as a port or sent as a host's name raises ValueError.
        host = (parts.hostname or "").encode("idna") if parts.port != 0 else b""
        known = parts.scheme in ("http", "https") and host and parts.path.isascii()
    except ValueError:
        known = False
    if not known or any(sign in url for sign in "?#@"):
        raise UsageError(
            f"the server {shortened(url)!r} is not an address; use one such as http://127.0.0.1:8188"
        )
    return url.rstrip("/")


class ComfyServer:
    """A client of one server, used by several threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._id = uuid.uuid4().hex
        self._checkpoints: list[str] = []
        self._uploads: dict[str, str] = {}
        self._uploading = threading.Lock()
        # A proxy of the environment cannot reach what listens on this machine only.
        local = urllib.parse.urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
        proxies = [urllib.request.ProxyHandler({})] if local else []
        self._opener = urllib.request.build_opener(_Stay, *proxies)

    def check(self, models: Sequence[ModelChoice]) -> None:
        """Raise UsageError unless this is a ComfyUI with this pack and the models."""
        try:
            system = self._value("/system_stats")
            if not isinstance(_at(system, "system"), dict):
                raise _Trouble("is not a ComfyUI server")
            node = _at(self._value(f"/object_info/{_NODE}"), _NODE)
        except _Trouble as problem:
            raise UsageError(f"{self.url} {problem}; check the address and start ComfyUI there") from problem
        if node is None:
            raise UsageError(
                f"the ComfyUI at {self.url} does not have the nodes of this pack; install dynamicrafter-studio there"
            )
        self._checkpoints = _options(_at(node, "input", "required", "checkpoint"))
        for model in models:
            self._checkpoint(model)

    def _checkpoint(self, model: ModelChoice) -> str:
        """The server's name for a model."""
        if model.asked in BUILT_IN:
            wanted = f"{model.asked} (built in)"
        else:
            wanted = PurePosixPath(model.asked).name if is_path(model.asked) else find(model.asked).saved_as
        for name in self._checkpoints:
            if PurePosixPath(name.replace("\\", "/")).name == wanted:
                return name
        some = ", ".join(map(shortened, self._checkpoints[:8])) or "none"
        raise UsageError(
            f"the ComfyUI at {self.url} has no checkpoint {wanted}; put it into its models folder (it has {some})"
        )

    def make(self, job: Job, tell: Tell) -> Take:
        """The frames of a job; raises _Trouble if the server does not do what it should."""
        prompt_id = str(uuid.uuid4())
        try:
            self._send(job, prompt_id)
            files = self._wait(prompt_id, tell)
        except Lost:
            self._forget(job.pictures)
            raise
        except BaseException as problem:
            # After an error of the job, it is not there any more.
            if isinstance(problem, Cancelled) or not isinstance(problem, DynamiCrafterError):
                self._withdraw(prompt_id)
            raise
        settings = job.settings
        count = settings.frames - (settings.mode == "loop")
        if len(files) != count:
            raise _WrongFrames(f"answered with {len(files)} frames instead of {count}")
        frames: list[np.ndarray[Any, Any]] = []
        for file in files:
            tell("decode", len(frames), count)
            frames.append(self._frame(file, settings))
        return Take(np.stack(frames), None)

    def _send(self, job: Job, prompt_id: str) -> None:
        """Upload the images of a job and queue it."""
        kept = [self._uploads.get(str(path)) for path in job.pictures]
        names = [self._uploaded(path) for path in job.pictures]
        status, answer = self._queue(job, names, prompt_id)
        if status == 400 and any(name in kept for name in names):
            # Images that were sent before are gone if the server was started again.
            self._forget(job.pictures)
            names = [self._uploaded(path) for path in job.pictures]
            status, answer = self._queue(job, names, prompt_id)
        if status == 400:
            raise DynamiCrafterError(f"{self.url} rejects the job: {_rejection(answer)}")
        self._require_success("/prompt", status)
        queued = _at(_parsed(answer), "prompt_id")
        if queued != prompt_id:
            # A server that ignores the id interrupts whatever it is working on.
            self._withdraw(queued, running=False)
            raise Lost(
                f"{self.url} is too old, as it does not queue jobs under the ids that are sent; update ComfyUI there",
                gone=True,
            )

    def _queue(self, job: Job, names: Sequence[str], prompt_id: str) -> tuple[int, bytes]:
        """HTTP status and body of the answer to a job, which is sent once, even if the answer is lost."""
        body = {
            "prompt": _graph(job, names, self._checkpoint(job.model)),
            "client_id": self._id,
            "prompt_id": prompt_id,
        }
        for left in reversed(range(_TRIES)):
            try:
                return self._ask("/prompt", json.dumps(body).encode(), "application/json", tries=1)
            except _NoAnswer:
                if not left:
                    raise
            time.sleep(_PAUSE)
            if self._has(prompt_id):
                break
        return 200, json.dumps({"prompt_id": prompt_id}).encode()

    def _forget(self, pictures: Sequence[Path]) -> None:
        """Upload these images again when they are needed next."""
        with self._uploading:
            for path in pictures:
                self._uploads.pop(str(path), None)

    def _uploaded(self, picture: Path) -> str:
        """The server's name for an image, which is sent as it is used here, without its metadata, and only once."""
        from PIL import Image

        with self._uploading:
            key = str(picture)
            if key not in self._uploads:
                png = io.BytesIO()
                Image.fromarray(read_picture(picture).pixels.numpy()).save(png, "PNG", compress_level=1)
                boundary, name = uuid.uuid4().hex, f"dynamicrafter-{uuid.uuid4().hex}.png"
                head = (
                    f'--{boundary}\r\nContent-Disposition: form-data; name="type"\r\n\r\ntemp\r\n--{boundary}\r\n'
                    f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n'
                    f"Content-Type: image/png\r\n\r\n"
                )
                body = head.encode() + png.getvalue() + f"\r\n--{boundary}--\r\n".encode()
                kind = f"multipart/form-data; boundary={boundary}"
                answer = self._value("/upload/image", body, kind)
                stored, folder = _at(answer, "name"), _at(answer, "subfolder")
                if not isinstance(stored, str) or not isinstance(folder, str):
                    raise _Trouble("does not say where it stored an image")
                self._uploads[key] = "/".join(filter(None, (folder, stored))) + " [temp]"
                if len(self._uploads) > _REMEMBERED:
                    # The oldest one: the images of a page's clips are never sent again.
                    del self._uploads[next(iter(self._uploads))]
            return self._uploads[key]

    def _wait(self, prompt_id: str, tell: Tell) -> list[Any]:
        """What the server calls the frames of a job, when they are there."""
        missed = 0
        while True:
            tell("load", 0, 0)
            entry = _at(self._value(f"/history/{prompt_id}"), prompt_id)
            if entry is not None:
                break
            missed += 1
            if missed % _MISSED == 0 and not self._has(prompt_id):
                raise Lost(f"{self.url} no longer has the job in its queue", gone=False)
            time.sleep(_POLL)
        if _at(entry, "status", "status_str") != "success":
            raise DynamiCrafterError(f"{self.url} could not generate it: {_failure(entry)}")
        return _list(_at(entry, "outputs", _FRAMES, "images"))

    def _has(self, prompt_id: str) -> bool:
        """Whether a job is queued, at work or finished."""
        queue = self._value("/queue")
        entries = _list(_at(queue, "queue_running")) + _list(_at(queue, "queue_pending"))
        if any(_list(entry)[1:2] == [prompt_id] for entry in entries):
            return True
        return _at(self._value(f"/history/{prompt_id}"), prompt_id) is not None

    def _withdraw(self, prompt_id: Any, *, running: bool = True) -> None:
        """Take a job out of the queue or, if ``running``, stop it, if the server still answers."""
        calls = [("/queue", {"delete": [prompt_id]}), ("/interrupt", {"prompt_id": prompt_id})]
        for path, body in calls if running else calls[:1]:
            try:
                self._ask(path, json.dumps(body).encode(), "application/json", tries=1)
            except _Trouble:
                return

    def _frame(self, file: Any, settings: Settings) -> np.ndarray[Any, Any]:
        """A frame that the server has stored, uint8 ``[h, w, 3]``."""
        from PIL import Image

        names = {name: _at(file, name) for name in ("filename", "subfolder", "type")}
        if not all(isinstance(name, str) for name in names.values()):
            raise _Trouble("does not say where its frames are")
        limit = settings.width * settings.height * 4 + _OVERHEAD
        status, content = self._ask(f"/view?{urllib.parse.urlencode(names)}", limit=limit)
        self._require_success("/view", status)
        try:
            picture = Image.open(io.BytesIO(content), formats=("PNG",))
            if picture.size == (settings.width, settings.height):
                return np.array(picture.convert("RGB"))
        # Decoders raise all kinds of exceptions for damaged files.
        except Exception as problem:
            raise _WrongFrames(
                f"answered with a frame that is not a PNG ({shortened(str(problem))})"
            ) from problem
        size = "{}x{}".format(*picture.size)
        raise _WrongFrames(
            f"answered with a frame of {size} instead of {settings.width}x{settings.height} pixels"
        )

    def _require_success(self, path: str, status: int) -> None:
        if status != 200:
            raise _Trouble(f"answers {path} with HTTP status {status}")

    def _value(self, path: str, body: bytes | None = None, kind: str = "") -> Any:
        """The JSON that the server answers; None if there is nothing of this name."""
        status, content = self._ask(path, body, kind)
        if status == 404 and body is None:
            return None
        self._require_success(path, status)
        return _parsed(content)

    def _ask(
        self,
        path: str,
        body: bytes | None = None,
        kind: str = "",
        *,
        limit: int = _JSON_BYTES,
        tries: int = _TRIES,
    ) -> tuple[int, bytes]:
        """HTTP status and body of an answer."""
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind} if kind else {})
        for left in reversed(range(tries)):
            try:
                try:
                    with self._opener.open(request, timeout=_SECONDS) as answer:
                        return answer.status, _bounded(answer, limit)
                except urllib.error.HTTPError as answer:
                    with answer:
                        return answer.code, _bounded(answer, limit)
            except (OSError, http.client.HTTPException) as problem:
                if not left:
                    reason = getattr(problem, "reason", None) or problem
                    reason = getattr(reason, "strerror", None) or reason
                    raise _NoAnswer(f"does not answer ({shortened(str(reason))})") from problem
            time.sleep(_PAUSE)
        raise AssertionError("there is at least one try")


class ServerPlace:
    """A worker: one of the places in the queue of a server that are used."""

    def __init__(self, server: ComfyServer) -> None:
        self.name = server.url
        self._server = server

    def make(self, job: Job, tell: Tell) -> Take:
        """The frames of a job; raises Lost if the server does not give them, or cannot be relied upon any more."""
        try:
            return self._server.make(job, tell)
        except _WrongFrames as problem:
            raise Lost(
                f"{self.name} {problem}", gone=False, advice="update ComfyUI and this pack there"
            ) from problem
        except _Trouble as problem:
            raise Lost(f"{self.name} {problem}", gone=True) from problem

    def close(self) -> None:
        """Nothing was started."""


def _bounded(answer: Any, limit: int) -> bytes:
    """The body of an answer; raises _Trouble if it is too long or too slow."""
    until = time.monotonic() + _SECONDS
    parts: list[bytes] = []
    size = 0
    while block := answer.read1(1 << 16):
        parts.append(block)
        size += len(block)
        if size > limit:
            raise _Trouble(f"answered with more than {limit / 1e6:.0f} MB")
        if time.monotonic() > until:
            raise _Trouble(f"took more than {_SECONDS:.0f} s for an answer")
    return b"".join(parts)


def _parsed(content: bytes) -> Any:
    """The JSON of an answer."""
    try:
        return parse_json(content)
    except ValueError as problem:
        raise _Trouble("is not a ComfyUI server, or a broken one: it does not answer in JSON") from problem


def _graph(job: Job, pictures: Sequence[str], checkpoint: str) -> dict[str, Any]:
    """The one-node workflow in API form, with the frames as its output."""
    settings = vars(job.settings)
    inputs: dict[str, Any] = {name: settings[own] for own, name in _INPUTS.items()}
    inputs |= {
        "image": ["first", 0],
        "checkpoint": checkpoint,
        "variant": named_variant(job.model).name,
        "motion": -1.0,
        "loop": job.settings.mode == "loop",
    }
    graph: dict[str, Any] = {"first": {"class_type": "LoadImage", "inputs": {"image": pictures[0]}}}
    if job.settings.mode == "interpolate":
        graph["last"] = {"class_type": "LoadImage", "inputs": {"image": pictures[1]}}
        inputs["last_image"] = ["last", 0]
    graph["clip"] = {"class_type": _NODE, "inputs": inputs}
    graph[_FRAMES] = {"class_type": "PreviewImage", "inputs": {"images": ["clip", 1]}}
    return graph


def _at(value: Any, *names: str) -> Any:
    """What is inside nested objects under these names; None if anything is missing."""
    for name in names:
        value = cast(dict[str, Any], value).get(name) if isinstance(value, dict) else None
    return value


def _options(declared: Any) -> list[str]:
    """The choices of an input, in either form in which servers declare them."""
    listed = _list(declared)
    names = _list(listed[0]) if listed else []
    if not names and len(listed) > 1:
        names = _list(_at(listed[1], "options"))
    return [name for name in names if isinstance(name, str)]


def _list(value: Any) -> list[Any]:
    """``value`` if it is a list; an empty one otherwise."""
    return cast(list[Any], value) if isinstance(value, list) else []


def _rejection(answer: bytes) -> str:
    """Why a server did not queue a graph."""
    try:
        value = parse_json(answer)
    except ValueError:
        return "no reason is given"
    found: list[str] = []
    errors = _at(value, "node_errors")
    for node in cast(dict[str, Any], errors).values() if isinstance(errors, dict) else ():
        found += [
            f"{_at(error, 'message')} ({_at(error, 'details')})" for error in _list(_at(node, "errors"))
        ]
    return shortened(found[0] if found else str(_at(value, "error", "message") or "no reason is given"))


def _failure(entry: Any) -> str:
    """Why a graph ended without a result."""
    for message in _list(_at(entry, "status", "messages")):
        pair = _list(message)
        if len(pair) == 2 and pair[0] == "execution_error":
            return shortened(str(_at(pair[1], "exception_message") or "no reason is given").strip())
        if len(pair) == 2 and pair[0] == "execution_interrupted":
            return "somebody interrupted it there"
    return "no reason is given"
