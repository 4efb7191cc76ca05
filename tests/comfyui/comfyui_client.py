"""A client of ComfyUI's public HTTP and websocket API, as small as the tests need it."""

import io
import json
import struct
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket
from PIL import Image

# First number of a binary frame, and meaning of the second in a plain preview (protocol.py, server.py).
PLAIN_PREVIEW = 1
PREVIEW_WITH_METADATA = 4
PICTURE_FORMATS = {1: "JPEG", 2: "PNG"}
FINAL = ("execution_success", "execution_error", "execution_interrupted")


class RequestRefused(Exception):
    """The server answered with an error: `status` of HTTP and `answer`, the decoded body (JSON or text)."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__(f"HTTP {status}: {answer}")
        self.status = status
        self.answer = answer

    def node_errors(self) -> dict[str, list[dict[str, Any]]]:
        """Errors by node id, of a prompt that did not pass validation."""
        found: dict[str, Any] = self.answer.get("node_errors", {}) if isinstance(self.answer, dict) else {}
        return {node: entry["errors"] for node, entry in found.items()}

    def messages(self) -> str:
        """All error texts of a refused prompt in one string, for `match`."""
        errors = [error for entry in self.node_errors().values() for error in entry]
        if isinstance(self.answer, dict) and isinstance(self.answer.get("error"), dict):
            errors.append(self.answer["error"])
        return "\n".join(f"{error.get('message')}: {error.get('details')}" for error in errors)


@dataclass(frozen=True)
class Message:
    """A JSON message of the websocket: its `type`, its `data`, and when it came (`time.monotonic`)."""

    kind: str
    data: dict[str, Any]
    at: float


@dataclass(frozen=True)
class Preview:
    """A picture sent while a node runs; `metadata` is empty for plain clients, else node_id etc."""

    image: bytes
    format: str
    metadata: dict[str, Any]
    prompt_id: str | None
    at: float

    def picture(self) -> Image.Image:
        """The decoded picture, RGB."""
        with Image.open(io.BytesIO(self.image)) as picture:
            return picture.convert("RGB")


@dataclass(frozen=True)
class Run:
    """Everything that came for one prompt, and its entry in the history."""

    prompt_id: str
    messages: list[Message]
    previews: list[Preview]
    history: dict[str, Any] = field(repr=False)

    @property
    def status(self) -> str:
        """`success`, `error` or `interrupted`."""
        return next(message.kind for message in self.messages if message.kind in FINAL).removeprefix(
            "execution_"
        )

    @property
    def error(self) -> dict[str, Any]:
        """Data of the error message (node_id, node_type, exception_message, traceback, ...) or nothing."""
        return next((message.data for message in self.messages if message.kind == "execution_error"), {})

    @property
    def executed(self) -> list[str]:
        """Ids of the nodes that really ran, in order."""
        nodes = [message.data.get("node") for message in self.messages if message.kind == "executing"]
        return [node for node in nodes if node is not None]

    @property
    def cached(self) -> set[str]:
        """Ids of the nodes whose result was taken from an earlier prompt."""
        return {
            node
            for message in self.messages
            if message.kind == "execution_cached"
            for node in message.data["nodes"]
        }

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """What the output nodes report, by node id."""
        return self.history["outputs"]

    def progress(self, node: str) -> list[tuple[int, int]]:
        """(value, max) of each progress message of a node."""
        found = [message.data for message in self.messages if message.kind == "progress"]
        return [(data["value"], data["max"]) for data in found if data["node"] == node]

    def files(self) -> list[dict[str, str]]:
        """Files that the output nodes wrote: {filename, subfolder, type} each."""
        lists = [
            value for output in self.outputs.values() for value in output.values() if isinstance(value, list)
        ]
        return [
            entry for entries in lists for entry in entries if isinstance(entry, dict) and "filename" in entry
        ]


def parse_binary(frame: bytes) -> tuple[bytes, str, dict[str, Any]] | None:
    """(picture bytes, format, metadata) of a binary websocket frame, or None if it is no preview."""
    (kind,) = struct.unpack_from(">I", frame)
    if kind == PLAIN_PREVIEW:
        (number,) = struct.unpack_from(">I", frame, 4)
        return frame[8:], PICTURE_FORMATS[number], {}
    if kind == PREVIEW_WITH_METADATA:
        (length,) = struct.unpack_from(">I", frame, 4)
        metadata = json.loads(frame[8 : 8 + length])
        return frame[8 + length :], metadata["image_type"].removeprefix("image/").upper(), metadata
    return None


class Client:
    """One client of a server, with its own id and websocket. Use it in a `with` statement.

    With `preview_metadata` previews come with node and prompt (frame type 4), else as plain clients get them
    (type 1).
    """

    def __init__(self, url: str, preview_metadata: bool = True) -> None:
        self.url = url.rstrip("/")
        self.id = uuid.uuid4().hex
        self._preview_metadata = preview_metadata
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._arrived = threading.Condition()
        self._messages: list[Message] = []
        self._previews: list[Preview] = []
        self._running_prompt: str | None = None
        self._lost: str | None = None
        self._socket: websocket.WebSocket | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> "Client":
        address = self.url.replace("http", "ws", 1) + f"/ws?clientId={self.id}"
        self._socket = websocket.create_connection(
            address, timeout=30, http_no_proxy=["127.0.0.1", "localhost"]
        )
        self._socket.settimeout(None)
        features = {"supports_preview_metadata": self._preview_metadata}
        self._socket.send(json.dumps({"type": "feature_flags", "data": features}))
        self._reader = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the websocket and wait for its reader."""
        if self._socket is not None and self._reader is not None:
            self._socket.abort()
            self._reader.join(10)
            self._socket.shutdown()
            self._socket = None

    # --- HTTP ---

    def get(self, path: str) -> Any:
        """Decoded JSON of a GET."""
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        """Body of a GET."""
        return self._ask(urllib.request.Request(self.url + path))

    def post(self, path: str, body: Any) -> Any:
        """POST a JSON body; decoded JSON of the answer, or None where it has none."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}, method="POST"
        )
        answer = self._ask(request)
        return decode(answer) if answer else None

    def _ask(self, request: urllib.request.Request) -> bytes:
        try:
            with self._opener.open(request, timeout=120) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise RequestRefused(error.code, decode(error.read())) from None

    def object_info(self, node: str = "") -> dict[str, Any]:
        """Schemas of all nodes, or of one."""
        return self.get(f"/object_info/{urllib.parse.quote(node)}" if node else "/object_info")

    def system_stats(self) -> dict[str, Any]:
        """Versions, devices and memory of the server."""
        return self.get("/system_stats")

    def queue_state(self) -> tuple[list[str], list[str]]:
        """Ids of the running and of the waiting prompts."""
        state = self.get("/queue")
        return [entry[1] for entry in state["queue_running"]], [entry[1] for entry in state["queue_pending"]]

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The finished prompt's entry, or None while there is none."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Cancel what runs, or only this prompt if it is what runs."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self, unload_models: bool = True, free_memory: bool = True) -> None:
        """Ask for memory back; the server acts on it when it next looks at its queue."""
        self.post("/free", {"unload_models": unload_models, "free_memory": free_memory})

    def upload_image(self, path: Path, name: str | None = None) -> str:
        """Upload a picture to the input folder; returns the name to use in LoadImage."""
        boundary = uuid.uuid4().hex
        disposition = f'form-data; name="image"; filename="{name or path.name}"'
        head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\nContent-Type: image/png\r\n\r\n"
        overwrite = f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
        body = overwrite.encode() + head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = json.loads(self._ask(urllib.request.Request(self.url + "/upload/image", body, headers)))
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def view(self, file: dict[str, str]) -> bytes:
        """Bytes of a file that an output node wrote (an entry of `Run.files`)."""
        wanted = {key: file[key] for key in ("filename", "subfolder", "type") if key in file}
        return self.get_bytes("/view?" + urllib.parse.urlencode(wanted))

    # --- prompts ---

    def queue(self, prompt: dict[str, Any], extra_data: dict[str, Any] | None = None, **more: Any) -> str:
        """Queue a prompt (API format) and return its id. Raises `RequestRefused` if validation fails."""
        body = {"prompt": prompt, "client_id": self.id, **more}
        if extra_data:
            body["extra_data"] = extra_data
        return self.post("/prompt", body)["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 300.0) -> Run:
        """Wait for the end of a prompt of this client, whatever end it is."""
        self.wait_for(lambda message: message.kind in FINAL, prompt_id, timeout)
        deadline = time.monotonic() + timeout
        while (history := self.history(prompt_id)) is None:
            # The last message is sent a moment before the entry is made.
            if time.monotonic() > deadline:
                raise TimeoutError(f"prompt {prompt_id} ended and has no history")
            time.sleep(0.02)
        with self._arrived:
            messages = [message for message in self._messages if message.data.get("prompt_id") == prompt_id]
            previews = [preview for preview in self._previews if preview.prompt_id == prompt_id]
        return Run(prompt_id, messages, previews, history)

    def run(
        self, prompt: dict[str, Any], extra_data: dict[str, Any] | None = None, timeout: float = 300.0
    ) -> Run:
        """`queue` and `wait`."""
        return self.wait(self.queue(prompt, extra_data), timeout)

    def run_anew(self, prompt: dict[str, Any], timeout: float = 60.0) -> Run:
        """`free` and `run`, which can overtake it: again until not everything was kept. Raises `TimeoutError`."""
        self.free()
        deadline = time.monotonic() + timeout
        while not (run := self.run(prompt)).executed:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the results of a prompt were kept for {timeout} s after /free")
        return run

    def wait_for(
        self, wanted: Callable[[Message], bool], prompt_id: str | None, timeout: float = 60.0
    ) -> Message:
        """The first message (of a prompt, if one is given) that is `wanted`, even if it came before."""
        found: list[Message] = []

        def arrived() -> bool:
            found.extend(self._fitting(wanted, prompt_id))
            return bool(found) or self._lost is not None

        with self._arrived:
            if not self._arrived.wait_for(arrived, timeout):
                last = [f"{message.kind} {message.data}"[:200] for message in self._messages[-5:]]
                raise TimeoutError(f"no such message in {timeout} s; the last were: {last}")
            if not found:
                raise ConnectionError(f"the websocket closed while waiting: {self._lost}")
        return found[0]

    def wait_for_preview(self, prompt_id: str, count: int = 1, timeout: float = 60.0) -> list[Preview]:
        """The previews of a prompt as soon as there are `count`."""

        def previews() -> list[Preview]:
            return [preview for preview in self._previews if preview.prompt_id == prompt_id]

        with self._arrived:
            if not self._arrived.wait_for(lambda: len(previews()) >= count, timeout):
                raise TimeoutError(f"{len(previews())} previews in {timeout} s, wanted {count}")
            return previews()

    def _fitting(self, wanted: Callable[[Message], bool], prompt_id: str | None) -> Iterable[Message]:
        for message in self._messages:
            if (prompt_id is None or message.data.get("prompt_id") == prompt_id) and wanted(message):
                yield message

    def _read(self, connection: websocket.WebSocket) -> None:
        reason = "closed"
        try:
            while True:
                opcode, data = connection.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    break
                with self._arrived:
                    self._keep(data, opcode == websocket.ABNF.OPCODE_BINARY)
                    self._arrived.notify_all()
        except (OSError, websocket.WebSocketException) as error:
            reason = repr(error)
        with self._arrived:
            self._lost = reason
            self._arrived.notify_all()

    def _keep(self, data: bytes, binary: bool) -> None:
        now = time.monotonic()
        if not binary:
            received = json.loads(data)
            message = Message(received["type"], received.get("data") or {}, now)
            if message.kind == "execution_start":
                self._running_prompt = message.data["prompt_id"]
            self._messages.append(message)
        elif preview := parse_binary(data):
            image, kind, metadata = preview
            # A plain frame does not say whose it is; a server runs one prompt at a time.
            prompt_id = metadata.get("prompt_id", self._running_prompt)
            self._previews.append(Preview(image, kind, metadata, prompt_id, now))


def decode(body: bytes) -> Any:
    """JSON if it is JSON, else text."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", errors="replace")
