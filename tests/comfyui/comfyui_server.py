"""A real ComfyUI server as a child process, with one pack in it and folders of its own."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from comfyui_client import Client
from comfyui_host import Host

LAUNCHER = Path(__file__).with_name("comfyui_launch.py")
START_TIMEOUT = 240.0
STOP_TIMEOUT = 10.0
ADDRESS_TAKEN = re.compile("address already in use|only one usage of each socket address", re.IGNORECASE)


class ServerFailed(Exception):
    """The server ended or did not answer; the message ends with what it had said."""


def copy_pack(source: Path, target: Path, archive: bool = False) -> Path:
    """Copy a pack as its users get it: the files that git knows or would take, nothing built or ignored.

    With `archive`, files named in `.comfyignore` stay behind too, as in the registry's archive. A `source`
    that is not a git checkout is copied whole. Returns `target`.
    """
    names = git_files(source)
    if names is None:
        shutil.copytree(
            source, target, ignore=shutil.ignore_patterns("__pycache__", ".git", ".venv", "*.pyc")
        )
        return target
    if archive and (source / ".comfyignore").is_file():
        names -= (
            git_files(source, "--cached", "--others", "--ignored", "--exclude-from=.comfyignore") or set()
        )
    for name in sorted(names):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
    return target


def git_files(source: Path, *options: str) -> set[str] | None:
    """Names below `source` that `git ls-files` lists, or None where there is no git or no checkout."""
    options = options or ("--cached", "--others", "--exclude-standard")
    if shutil.which("git") is None or not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "ls-files", "-z", *options]
    result = subprocess.run(command, capture_output=True, check=False)
    if result.returncode != 0:
        return None
    return {name.decode("utf-8") for name in result.stdout.split(b"\0") if name}


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """ComfyUI on 127.0.0.1 with `pack` as its only custom node pack. Use it in a `with` statement.

    `base` is an empty folder that gets models, input, output, user and custom_nodes. `pack` is an already
    copied pack (see `copy_pack`) or None; it is moved to `custom_nodes/<its name>`. `arguments` go to the
    server's command line, `environment` is added to its environment; `cpu=False` lets it use the GPU. Public
    attributes: `host`, `base`, `url`, `pack_name`, `log_file`.
    """

    def __init__(
        self,
        host: Host,
        base: Path,
        pack: Path | None,
        arguments: Sequence[str] = (),
        cpu: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        self.base = base
        self.pack_name = pack.name if pack else ""
        self.url = ""
        self.log_file = base / "server.log"
        self._arguments = [*(("--cpu",) if cpu else ()), *arguments]
        self._environment = {"HF_HUB_OFFLINE": "1", **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("custom_nodes", "models", "input", "output", "user"):
            (base / name).mkdir(parents=True, exist_ok=True)
        if pack:
            shutil.move(pack, base / "custom_nodes" / pack.name)

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pack_folder(self) -> Path:
        """The pack inside `custom_nodes`."""
        return self.base / "custom_nodes" / self.pack_name

    @property
    def pid(self) -> int:
        """Process number of the running server."""
        return self._running().pid

    def start(self) -> None:
        """Start; return when the server answers. Raises `ServerFailed` with its last words if it does not."""
        for attempt in range(3):
            port = free_port()
            self._launch(port)
            try:
                self._wait_until_up()
                return
            except ServerFailed:
                self.stop()
                # Another process may have taken the port between the question for it and its use.
                if attempt == 2 or not ADDRESS_TAKEN.search(self.log()):
                    raise
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End the server: politely, then by force. Does nothing if it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def client(self, preview_metadata: bool = True) -> Client:
        """A new client, connected; use it in a `with` statement."""
        return Client(self.url, preview_metadata=preview_metadata)

    def log(self) -> str:
        """What the server has said so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.is_file() else ""

    def resident_bytes(self) -> int:
        """Resident memory of the server process."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            raise ServerFailed(f"the server is not running; it said:\n{tail(self.log())}")
        return self._process

    def _launch(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-u", str(LAUNCHER), str(os.getpid()), str(self.host.folder / "main.py")]
        command += ["--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(self.base)]
        # No database file, no talk with the internet, and no pack that a user's own paths file brings in.
        command += ["--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--disable-auto-launch"]
        command += ["--disable-all-custom-nodes"]
        if self.pack_name:
            command += ["--whitelist-custom-nodes", self.pack_name]
        # A list of names swallows what follows it, so an option comes next in any case.
        command += ["--dont-print-server", *self._arguments]
        environment = dict(
            os.environ, PYTHONIOENCODING="utf-8", PYTHONUTF8="1", NO_COLOR="1", **self._environment
        )
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.base,
            )

    def _wait_until_up(self) -> None:
        # The loopback interface is asked directly, whatever proxy the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            self._running()
            try:
                with opener.open(f"{self.url}/system_stats", timeout=5) as answer:
                    answer.read()
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.2)
        raise ServerFailed(
            f"no answer from {self.url} in {START_TIMEOUT:.0f} s; it said:\n{tail(self.log())}"
        )


def tail(text: str, lines: int = 40) -> str:
    """The last lines of a text."""
    return "\n".join(text.splitlines()[-lines:])
