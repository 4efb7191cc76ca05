"""Fixtures of the tests with a real ComfyUI server and a real browser.

Without a host or a browser these tests are skipped with the missing thing named. A missing host is a failure
where `CI` or `DYNAMICRAFTER_REQUIRE_HOST` is set, a missing browser where `DYNAMICRAFTER_REQUIRE_BROWSER` is.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    # Imported by the fixtures, so that a missing requirement is named once and fails no collection.
    from comfyui_browser import Editor
    from comfyui_client import Client
    from comfyui_host import Host
    from comfyui_server import Server
    from playwright.sync_api import Browser

REPOSITORY = Path(__file__).resolve().parents[2]
NO = ("", "0", "false", "no")


def absent(reason: str, *required_by: str) -> None:
    """Skip, or fail where one of these environment variables says that the missing thing must be there."""
    if any(os.environ.get(name, "").lower() not in NO for name in required_by):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def comfyui_host() -> "Host":
    """A ComfyUI that can be started."""
    from comfyui_host import HostUnavailable, find_host

    try:
        return find_host()
    except HostUnavailable as error:
        absent(str(error), "CI", "DYNAMICRAFTER_REQUIRE_HOST")
        raise


@pytest.fixture(scope="session")
def start_server(
    comfyui_host: "Host", tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[Callable[..., Server]]":
    """A function `(pack folder or None, arguments=(), cpu=True, environment=None) -> Server`; all stop at the end."""
    from comfyui_server import Server

    with ExitStack() as running:

        def start(
            pack: Path | None,
            arguments: Sequence[str] = (),
            cpu: bool = True,
            environment: Mapping[str, str] | None = None,
        ) -> Server:
            base = tmp_path_factory.mktemp("comfyui")
            return running.enter_context(Server(comfyui_host, base, pack, arguments, cpu, environment))

        yield start


@pytest.fixture(scope="session")
def pack_server(start_server: "Callable[..., Server]", tmp_path_factory: pytest.TempPathFactory) -> "Server":
    """A server with this repository as its only pack, as in a git clone, in a folder of another name."""
    from comfyui_server import copy_pack

    pack = copy_pack(REPOSITORY, tmp_path_factory.mktemp("pack") / "any_folder-name")
    with pytest.MonkeyPatch.context() as environment:
        # Where the built-in model is written; the server is started with this and keeps it.
        environment.setenv("DYNAMICRAFTER_HOME", str(tmp_path_factory.mktemp("weights")))
        # None of the person's who runs the tests; a test may write some there.
        profiles = tmp_path_factory.getbasetemp() / "language_models.toml"
        environment.setenv("DYNAMICRAFTER_LANGUAGE_MODELS", str(profiles))
        # Tensors this small gain nothing from more threads, which on a busy machine wait for one another.
        environment.setenv("OMP_NUM_THREADS", "1")
        return start_server(pack)


@pytest.fixture
def client(pack_server: "Server") -> "Iterator[Client]":
    """A client of `pack_server`, connected."""
    with pack_server.client() as connected:
        yield connected


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A headless Chromium.

    Ended with the module: while Playwright runs, its event loop does too, and no test could start another.
    """
    from chromium import BrowserUnavailable, browser_running

    with ExitStack() as running:
        try:
            started = running.enter_context(browser_running())
        except BrowserUnavailable as error:
            absent(str(error), "DYNAMICRAFTER_REQUIRE_BROWSER")
            raise
        yield started


@pytest.fixture
def open_editor(browser: "Browser") -> "Iterator[Callable[[Server], Editor]]":
    """A function `(server) -> Editor` that opens the editor of a server; closed after the test."""
    from comfyui_browser import Editor

    with ExitStack() as opened:

        def open_it(server: "Server") -> Editor:
            editor = Editor(browser, server.url)
            opened.callback(editor.close)
            editor.open()
            return editor

        yield open_it
