"""Downloads by the button on a node: what they do, and that nothing else can start one.

The server on this machine speaks the hub's protocol and has small files in place of the released ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dynamicrafter.weights.catalogue import find
from tests.dynamicrafter.local_hub import CONTENT, Hub
from tests.dynamicrafter.local_hub import Server as HubServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from comfyui_browser import Editor
    from comfyui_server import Server

REPOSITORY = Path(__file__).resolve().parents[2]
PACK = "dynamicrafter-pack"
MODEL, ENCODERS = find("1024").saved_as, find("towers").saved_as
TOO_LARGE = find("1024_full").saved_as
HEADER = "X-DynamiCrafter-Token"
RELEASED = "DynamiCrafter model 1024 - image to video, 7 GB download"
START = "DynamiCrafter animate picture - image to video in one node"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    state = Hub(path=None)
    server = HubServer(state)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    state.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


def small_pack(target: Path) -> Path:
    """A copy of the pack whose catalogue has the hub's small files, and one that no disk has space for."""
    from comfyui_server import copy_pack

    pack = copy_pack(REPOSITORY, target)
    catalogue = pack / "dynamicrafter" / "weights" / "catalogue.py"
    text = catalogue.read_text(encoding="utf-8")
    text = re.sub(r'"[0-9a-f]{64}"', f'"{hashlib.sha256(CONTENT).hexdigest()}"', text)
    text = re.sub(r"size_bytes=\d[\d_]+", f"size_bytes={len(CONTENT)}", text)
    catalogue.write_text(text.replace("size_gb=10.4,", "size_gb=1e9,"), encoding="utf-8")
    return pack


def environment(hub: Hub) -> dict[str, str]:
    proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    return {**proxies, "NO_PROXY": "127.0.0.1", "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}


@pytest.fixture(scope="module")
def server(
    start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory, hub: Hub
) -> Iterator[Server]:
    pack = small_pack(tmp_path_factory.mktemp("downloads") / PACK)
    yield start_server(pack, environment=environment(hub))


@pytest.fixture(autouse=True)
def clean(server: Server, hub: Hub) -> Iterator[None]:
    """Nothing downloaded, and nothing asked of the hub."""
    hub.gate.set()
    hub.content = CONTENT
    hub.asked.clear()
    yield
    hub.gate.set()
    wait_until_idle(server)
    for file in (server.base / "models").rglob("*.*"):
        if file.is_file():
            file.unlink()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
    """Status and JSON of a request with these headers (``_`` for ``-``)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{server.url}/dynamicrafter/{path}", method=method, headers=named)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            text = refused.read()
            return refused.code, json.loads(text) if text.startswith(b"{") else {}


def own_page(server: Server) -> dict[str, str]:
    """The headers of a script of the server's own page."""
    site = {"Sec_Fetch_Site": "same-origin"}
    return {**site, HEADER.replace("-", "_"): ask(server, "files", **site)[1]["token"]}


def wait_until_idle(server: Server) -> dict[str, Any]:
    """The transfer once it has ended, empty if there was none."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        transfer: dict[str, Any] = ask(server, "download")[1] or {}
        if not transfer.get("running"):
            return transfer
        time.sleep(0.1)
    raise AssertionError("the download does not end")


def places(server: Server) -> list[Path]:
    models = server.base / "models"
    return [models / "checkpoints" / MODEL, models / "text_encoders" / ENCODERS]


def test_a_model_and_its_encoders_come_once(server: Server, hub: Hub) -> None:
    page = own_page(server)
    assert ask(server, f"download/{MODEL}", "POST", **page) == (202, {})
    transfer = wait_until_idle(server)
    assert (transfer["error"], transfer["cancelled"], transfer["name"]) == ("", False, MODEL)
    assert [path.read_bytes() for path in places(server)] == [CONTENT, CONTENT]
    assert [path for method, path, _ in hub.asked if method == "GET"] == [
        find("1024").url.removeprefix("https://huggingface.co"),
        find("towers").url.removeprefix("https://huggingface.co"),
    ]
    files = ask(server, "files")[1]["files"]
    assert {name for name, file in files.items() if file["here"]} == {MODEL, ENCODERS}
    with server.client() as client:
        entry = client.object_info("DynamiCrafterAnimate")["DynamiCrafterAnimate"]["input"]["required"]
    assert MODEL in entry["checkpoint"][1]["options"]
    # Another model needs no second copy of the encoders.
    hub.asked.clear()
    ask(server, f"download/{find('512').saved_as}", "POST", **page)
    wait_until_idle(server)
    assert len([1 for method, *_ in hub.asked if method == "GET"]) == 1


def test_the_listing_says_what_is_not_here_with_its_size(server: Server) -> None:
    listing = ask(server, "files")[1]
    assert listing["encoders"] == ENCODERS
    assert listing["files"][MODEL] == {
        "bytes": len(CONTENT),
        "variant": "1024_v1",
        "encoders": True,
        "recommended": True,
        "here": None,
    }
    assert not listing["files"][TOO_LARGE]["recommended"]


def test_a_file_in_a_subfolder_is_listed_by_the_name_that_the_list_has(server: Server) -> None:
    path = server.base / "models" / "checkpoints" / "video" / MODEL
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert ask(server, "files")[1]["files"][MODEL]["here"] == os.path.join("video", MODEL)


def test_encoders_that_a_broken_link_names_are_not_here(server: Server) -> None:
    folder = server.base / "models" / "text_encoders"
    link = folder / ENCODERS
    try:
        link.symlink_to(folder / "gone.safetensors")
    except OSError as problem:
        pytest.skip(f"needs links: {problem}")
    try:
        assert ask(server, "files")[1]["files"][ENCODERS]["here"] is None
    finally:
        link.unlink()


def test_one_download_at_a_time_and_it_can_be_cancelled(server: Server, hub: Hub) -> None:
    page = own_page(server)
    hub.gate.clear()
    assert ask(server, f"download/{MODEL}", "POST", **page)[0] == 202
    status, answer = ask(server, f"download/{ENCODERS}", "POST", **page)
    assert status == 409
    assert re.fullmatch(f"{MODEL} is being downloaded; wait until it is done, or cancel it", answer["error"])
    assert ask(server, "cancel", "POST", **page) == (200, {})
    hub.gate.set()
    transfer = wait_until_idle(server)
    assert transfer["cancelled"] and transfer["error"] == ""
    assert not any(path.exists() for path in places(server))


def test_wrong_contents_are_told_and_not_kept(server: Server, hub: Hub) -> None:
    hub.content = CONTENT[::-1]
    ask(server, f"download/{MODEL}", "POST", **own_page(server))
    assert re.search(r"sent wrong contents for 1024 .*; they were removed", wait_until_idle(server)["error"])
    assert not list((server.base / "models").rglob("*.part"))


def test_free_space_is_checked_first(server: Server, hub: Hub) -> None:
    status, answer = ask(server, f"download/{TOO_LARGE}", "POST", **own_page(server))
    assert status == 409
    assert re.search(
        r"needs? .* GB in .*checkpoints, but only .* GB are free; free some space$", answer["error"]
    )
    assert hub.asked == []


@pytest.mark.parametrize("name", ["other.safetensors", "..%2Fx.safetensors", "model.ckpt"])
def test_only_files_of_the_catalogue(server: Server, hub: Hub, name: str) -> None:
    status, answer = ask(server, f"download/{name}", "POST", **own_page(server))
    assert status == 404
    assert re.search(r" is not a released file; GET /dynamicrafter/files lists them$", answer["error"])
    assert hub.asked == []


BUTTON = r"downloads are started by the button on a node; to start them by a script, start ComfyUI with DYNAMICRAFTER_"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, BUTTON),
        ({"Sec_Fetch_Site": "none"}, BUTTON),
        ({"Sec_Fetch_Site": "same-site"}, BUTTON),
        ({"Origin": "http://evil.example"}, BUTTON),
        ({"Referer": "http://evil.example/page"}, BUTTON),
        ({"Sec_Fetch_Site": "same-origin", "X_DynamiCrafter_Token": "wrong"}, "reload the page"),
        ({"Sec_Fetch_Site": "same-origin", "X_DynamiCrafter_Token": ""}, "reload the page"),
    ],
)
def test_nobody_else_can_start_one(server: Server, hub: Hub, headers: dict[str, str], message: str) -> None:
    """With the right token unless another is given: it alone is not enough."""
    token = own_page(server)["X_DynamiCrafter_Token"]
    status, answer = ask(server, f"download/{MODEL}", "POST", **{"X_DynamiCrafter_Token": token, **headers})
    assert status == 403
    # ComfyUI itself turns away what comes from another site.
    assert not answer or re.search(message, answer["error"])
    status, _ = ask(server, "cancel", "POST", **{"X_DynamiCrafter_Token": token, **headers})
    assert status == 403
    assert wait_until_idle(server).get("running", False) is False
    assert hub.asked == []


def test_a_page_without_the_token_cannot_start_one(server: Server, hub: Hub) -> None:
    status, answer = ask(server, f"download/{MODEL}", "POST", Sec_Fetch_Site="same-origin")
    assert status == 403
    assert re.search("the token of this page is not that of the server", answer["error"])
    assert hub.asked == []


def test_only_the_own_page_gets_the_token(server: Server) -> None:
    for headers in ({}, {"Sec_Fetch_Site": "same-site"}, {"Sec_Fetch_Site": "none"}):
        assert "token" not in ask(server, "files", **headers)[1]
    host = server.url.removeprefix("http://")
    for headers in ({"Sec_Fetch_Site": "same-origin"}, {"Referer": f"http://{host}/"}):
        assert len(ask(server, "files", **headers)[1]["token"]) >= 24


def test_a_workflow_cannot_start_one(server: Server, hub: Hub) -> None:
    """A graph that names files which are not here is refused, as it always was."""
    from comfyui_client import RequestRefused

    flow = json.loads((REPOSITORY / "workflows" / "api" / f"{RELEASED}.json").read_text(encoding="utf-8"))
    with server.client() as client, pytest.raises(RequestRefused, match="not in list"):
        client.run(flow)
    assert hub.asked == []
    assert not any(path.exists() for path in places(server))


def test_a_script_may_where_the_server_was_started_so(
    start_server: Callable[..., Server], tmp_path: Path, hub: Hub
) -> None:
    pack = small_pack(tmp_path / PACK)
    running = start_server(pack, environment={**environment(hub), "DYNAMICRAFTER_ALLOW_DOWNLOADS": "1"})
    try:
        assert ask(running, f"download/{MODEL}", "POST")[0] == 403
        evil = {"X_DynamiCrafter_Token": "-", "Referer": "http://evil.example/"}
        assert ask(running, f"download/{MODEL}", "POST", **evil)[0] == 403
        assert ask(running, f"download/{MODEL}", "POST", X_DynamiCrafter_Token="-") == (202, {})
        assert wait_until_idle(running)["error"] == ""
        assert [path.read_bytes() for path in places(running)] == [CONTENT, CONTENT]
    finally:
        running.stop()


RED = "wanted => app.graph.nodes.some(node => node.has_errors) === wanted"


class TestBrowser:
    @pytest.fixture
    def editor(self, open_editor: Callable[[Server], Editor], server: Server) -> Iterator[Editor]:
        opened = open_editor(server)
        opened.page.set_viewport_size({"width": 1600, "height": 950})
        yield opened
        assert opened.script_errors == []

    def keep(self, editor: Editor, name: str) -> None:
        folder = os.environ.get("DYNAMICRAFTER_SCREENSHOTS")
        if folder:
            editor.screenshot(Path(folder) / f"{name}.png")

    def wait_for_label(self, editor: Editor, label: str) -> None:
        editor.page.wait_for_function(
            """label => app.graph.nodes.find(node => node.type === 'DynamiCrafterAnimate')
              .widgets.find(widget => widget.name === 'dynamicrafter_download').label.match(label)""",
            arg=label,
        )

    def test_a_released_template_offers_its_files_by_core_and_by_the_button(
        self, editor: Editor, server: Server, hub: Hub
    ) -> None:
        node, button = "DynamiCrafterAnimate", "dynamicrafter_download"
        editor.open_template(PACK, RELEASED)
        editor.page.get_by_test_id("error-overlay").get_by_text("details").click()
        panel = editor.page.get_by_test_id("properties-panel")
        for name in (MODEL, ENCODERS):
            panel.get_by_text(name).first.wait_for()
        self.keep(editor, "missing_models")
        size = f"{len(CONTENT) / 1e9:.1f} GB"
        assert editor.widget_text(node, "checkpoint") == f"({size}) {MODEL}"
        saved = editor.page.evaluate("() => app.graph.serialize()")
        values = next(entry["widgets_values"] for entry in saved["nodes"] if entry["type"] == node)
        assert MODEL in values and None not in values
        assert hub.asked == []
        hub.gate.clear()
        editor.click_widget(node, button)
        self.wait_for_label(editor, r"^Downloading model: \d+ % of .* GB \(cancel\)$")
        self.keep(editor, "downloading")
        hub.gate.set()
        self.wait_for_label(editor, "^Download a model$")
        assert [path.read_bytes() for path in places(server)] == [CONTENT, CONTENT]
        assert editor.widget_text(node, "checkpoint") == MODEL
        editor.page.wait_for_function(RED, arg=False)
        self.keep(editor, "downloaded")

    def test_a_model_is_chosen_from_the_button_of_the_start(self, editor: Editor, hub: Hub) -> None:
        node = "DynamiCrafterAnimate"
        editor.open_template(PACK, START)
        assert editor.widget_text(node, "dynamicrafter_download") == "Download a model"
        editor.click_widget(node, "dynamicrafter_download")
        entry = editor.page.locator(".litecontextmenu .litemenu-entry").filter(has_text=MODEL)
        entry.wait_for()
        self.keep(editor, "menu")
        assert hub.asked == []
        entry.click()
        editor.page.wait_for_function(
            """name => app.graph.nodes.find(node => node.type === 'DynamiCrafterAnimate')
              .widgets.find(widget => widget.name === 'checkpoint').value === name""",
            arg=MODEL,
        )
        assert editor.widget_text(node, "variant") == "1024_v1"
        assert editor.problems() == []
        # Another released file brings its own, and any other file none.
        editor.set_widget(node, "checkpoint", find("512").saved_as)
        assert editor.widget_text(node, "variant") == "512_v1"
        editor.set_widget(node, "checkpoint", "tiny (built in)")
        assert editor.widget_text(node, "variant") == "auto"
