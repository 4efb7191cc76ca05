"""The page as `dynamicrafter serve` serves it: its HTTP API, its manners on the network, and a real browser.

With ``DYNAMICRAFTER_SCREENSHOTS`` set to a folder, pictures of the page are kept there; that of docs/ was made so.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("gradio_client", reason="the extra serve is not installed")

import httpx
import psutil

from dynamicrafter.media.video import read_frames, read_metadata, read_sound
from dynamicrafter.page.door import COOKIE
from dynamicrafter.page.words import TEXTS
from tools.measure_page_memory import rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
CIRCLE = ROOT / "pictures" / "red_circle.png"
READY = 120.0
CLIP = 180_000
"""Milliseconds for a clip on a busy machine; the first one starts the worker's process."""

PLAYING = """panel => {
  const video = document.querySelector(`#panel_${panel} video`);
  return video && video.readyState >= 2 && video.videoWidth;
}"""
PHONE = {"width": 375, "height": 812}
ENDLESS = 900
"""Steps of a clip that does not end before it is cancelled."""
TABS = 30


@dataclass
class Served:
    url: str
    process: subprocess.Popen[str]
    results: Path

    def worker(self) -> psutil.Process:
        """The process that generates clips."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(one for one in children if "spawn_main" in " ".join(one.cmdline()))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    results = tmp_path_factory.mktemp("results")
    words = [
        "serve",
        "--port",
        "0",
        "--results",
        str(results),
        "--max-queued",
        "12",
        "--max-steps",
        str(ENDLESS),
        "--root-path",
        "/studio",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "dynamicrafter", *words], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    # A page that never comes must not stop the tests.
    timer = threading.Timer(READY, process.kill)
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    try:
        assert line.startswith("The page is at http://127.0.0.1:"), line
        yield Served(line.split()[4].rstrip("/"), process, results)
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()


class Person:
    """A client of the HTTP API with a cookie of its own."""

    def __init__(self, url: str) -> None:
        self.root, self.url = url.removesuffix("/studio"), url
        self.http = httpx.Client(cookies={COOKIE: secrets.token_hex(16)}, timeout=60)

    def upload(self, path: Path = CIRCLE) -> str:
        answer = self.http.post(
            f"{self.url}/gradio_api/upload", files={"files": (path.name, path.read_bytes())}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()[0]

    def call(self, name: str, *data: Any) -> Any:
        """What an address of the API returns; raises RuntimeError with its message."""
        asked = self.http.post(f"{self.url}/gradio_api/call/{name}", json={"data": data})
        if asked.status_code != 200:
            raise RuntimeError(f"{asked.status_code} {asked.text}")
        told = self.http.get(f"{self.url}/gradio_api/call/{name}/{asked.json()['event_id']}").text
        event, _, values = told.strip().partition("\n")
        values = json.loads(values.removeprefix("data: "))
        if event != "event: complete":
            raise RuntimeError(str(values))
        return values[0]

    def submit(self, path: str, steps: int = 1, frames: int = 2) -> Any:
        file, prompt = {"path": path, "meta": {"_type": "gradio.FileData"}}, "a red circle moves right"
        return self.call("submit", file, None, "animate", "", prompt, "", 0.7, 7, frames, steps, None, "")

    def wait(self, clip: Any) -> Any:
        deadline = time.monotonic() + CLIP / 1000
        while clip["state"] in ("waiting", "working"):
            assert time.monotonic() < deadline
            time.sleep(0.3)
            clip = self.call("state", clip["job"])
        return clip


@pytest.fixture
def visitors(served: Served) -> Iterator[Callable[[], Person]]:
    """A function that gives a new client."""
    with ExitStack() as opened:

        def come() -> Person:
            person = Person(served.url)
            opened.callback(person.http.close)
            return person

        yield come


def test_a_clip_by_the_client_of_gradio(served: Served, tmp_path: Path) -> None:
    """The example of docs/serve.md."""
    from gradio_client import Client, handle_file

    cookie = {"Cookie": f"{COOKIE}={secrets.token_hex(16)}"}
    client = Client(served.url, headers=cookie, verbose=False, analytics_enabled=False)
    clip = client.predict(
        handle_file(CIRCLE),
        prompt="a red circle moves right",
        motion=0.7,
        seed=3,
        steps=2,
        sound="sea",
        api_name="/submit",
    )
    assert clip["state"] in ("waiting", "working")
    while clip["state"] in ("waiting", "working"):
        time.sleep(0.2)
        clip = client.predict(clip["job"], api_name="/state")
    assert (clip["state"], clip["error"]) == ("done", "")
    assert clip["settings"]["seed"] == 3
    root = served.url.removesuffix("/studio")
    for kind, address in clip["files"].items():
        answer = httpx.get(root + address, headers=cookie)
        assert answer.status_code == 200
        path = tmp_path / f"clip.{kind}"
        path.write_bytes(answer.content)
        assert read_frames(path).shape == (16, 64, 64, 3)
        assert read_metadata(path)["settings"] == clip["settings"]
        assert httpx.get(root + address).status_code == 404
    assert sorted(clip["files"]) == ["gif", "mp4", "webp"]
    import av

    with av.open(str(tmp_path / "clip.mp4")) as video:
        assert len(video.streams.audio) == 1
    client.close()


def test_memory_is_measured_over_jobs(served: Served, tmp_path: Path) -> None:
    process = psutil.Process(served.process.pid)
    before, last = rows(served.url, process, served.results, 2, 1, tmp_path)
    assert (before.jobs, last.jobs) == (1, 2)
    # Three kinds of files, and what is listed of a clip.
    assert last.files - before.files == 4
    assert last.kept > before.kept
    assert min(last.server, last.worker) > 100


def test_others_read_nothing_of_a_visitor(visitors: Callable[[], Person]) -> None:
    one, other = visitors(), visitors()
    path = one.upload()
    clip = one.wait(one.submit(path))
    address = clip["files"]["mp4"]
    assert one.http.get(one.root + address).status_code == 200
    assert other.http.get(one.root + address).status_code == 404
    assert one.http.get(f"{one.url}/gradio_api/file={path}").status_code == 200
    assert other.http.get(f"{one.url}/gradio_api/file={path}").status_code == 403
    with pytest.raises(RuntimeError, match="403 this file is not yours"):
        other.submit(path)
    with pytest.raises(
        RuntimeError, match="there is no such job of yours; submit one first, with the same cookie"
    ):
        other.call("state", clip["job"])
    with pytest.raises(RuntimeError, match="there is no such job of yours"):
        other.call("cancel", clip["job"])


@pytest.mark.parametrize(
    "path",
    [
        "/results/../../../etc/passwd",
        "/results/..%2f..%2f..%2fetc/passwd",
        "/results/%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../etc/passwd",
        "/gradio_api/file=%2fetc%2fpasswd",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/stream/a/b/c/playlist.m3u8",
        "/static/../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/custom_component/a/b/c/d",
    ],
)
def test_no_address_leads_to_other_files(served: Served, path: str) -> None:
    """Over a bare connection, because clients tidy such paths up."""
    host, port = served.url.removesuffix("/studio").removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.split()[1] in (b"403", b"404", b"405"), answer[:200]
    assert b"root:" not in answer


def test_what_is_wrong_is_told(visitors: Callable[[], Person], tmp_path: Path) -> None:
    person = visitors()
    message = f"at most {ENDLESS} steps are allowed here, but {ENDLESS + 1} were asked for"
    with pytest.raises(RuntimeError, match=message):
        person.submit(person.upload(), steps=ENDLESS + 1)
    text = tmp_path / "photo.png"
    text.write_text("no image")
    with pytest.raises(RuntimeError):
        person.submit(person.upload(text))
    big = tmp_path / "big.png"
    big.write_bytes(b"\0" * 20_200_000)
    answer = person.http.post(
        f"{person.url}/gradio_api/upload", files={"files": ("big.png", big.read_bytes())}
    )
    assert answer.status_code == 413
    file = {"path": person.upload(), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(RuntimeError, match="there is no file 'passwd' among the uploaded images"):
        person.call("story", [file], "[/etc/passwd] a circle", "", None, None, None)
    with pytest.raises(RuntimeError, match="there is no motion 'flying'; they are walking, jumping_jacks"):
        person.call("person", file, "flying", None, "", None, None, None, None, "pad")
    # What is uploaded as poses is read by the worker, whose folders are not told.
    broken = tmp_path / "poses.json"
    broken.write_text('{"people": [')
    poses = {"path": person.upload(broken), "meta": {"_type": "gradio.FileData"}}
    moved = person.wait(person.call("person", file, "walking", poses, "", 5, 2, 2, None, "crop"))
    assert (moved["state"], moved["settings"]["fit"], moved["files"]) == ("failed", "crop", {})
    assert moved["error"].startswith("poses.json is not JSON")
    evil = person.http.get(f"{person.url}/", headers={"host": "evil.example"})
    assert (evil.status_code, "--name" in evil.text) == (421, True)


def test_ten_users_are_served_in_order(served: Served, visitors: Callable[[], Person]) -> None:
    people = [visitors() for _ in range(10)]
    paths = [person.upload() for person in people]
    # One address is one visitor for the limits, and these are twelve at most.
    clips = [people[0].submit(paths[0], steps=12, frames=16)]
    clips += [person.submit(path) for person, path in zip(people[1:], paths[1:], strict=True)]
    # The first one takes longer than asking for some others.
    assert [clip["place"] for clip in clips[1:4]] == [1, 2, 3]
    ended = [person.wait(clip) for person, clip in zip(people, clips, strict=True)]
    assert {clip["state"] for clip in ended} == {"done"}
    made = [
        (served.results / p.http.cookies[COOKIE] / c["job"] / "result.json")
        for p, c in zip(people, ended, strict=True)
    ]
    times = [json.loads(path.read_text())["made"] for path in made]
    assert times == sorted(times)


def test_a_killed_worker_and_a_cancelled_clip(served: Served, visitors: Callable[[], Person]) -> None:
    person = visitors()
    path = person.upload()
    clip, other = (person.submit(path, steps=12, frames=16) for _ in range(2))
    deadline = time.monotonic() + CLIP / 1000
    while person.call("state", clip["job"])["work"] != "sample":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    served.worker().kill()
    assert person.call("cancel", other["job"])["state"] == "cancelled"
    assert person.wait(clip)["state"] == "done"
    kept = {path.name for path in (served.results / person.http.cookies[COOKIE]).iterdir()}
    assert kept == {clip["job"]}


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from chromium import BrowserUnavailable, browser_running

    with ExitStack() as running:
        try:
            started = running.enter_context(browser_running())
        except BrowserUnavailable as error:
            pytest.skip(str(error))
        yield started


def keep(page: Page, name: str) -> None:
    """A picture of the page as docs/ shows it, where pictures are kept."""
    folder = os.environ.get("DYNAMICRAFTER_SCREENSHOTS")
    if folder:
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=Path(folder) / f"{name}.png")


class Visit:
    """The page in a window of its own; ``wrong`` is what the browser complained of, ``hosts`` whom it asked."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.wrong: list[str] = []
        self.hosts: set[str] = set()
        self.page: Page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **options})
        self.page.set_default_timeout(CLIP)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda told: self.wrong.append(told.text) if told.type == "error" else None)
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(f"{url}/")
        self.page.locator("#generate_animate").wait_for()

    def click(self, selector: str) -> None:
        self.page.locator(selector).click()

    def open_tab(self, name: str) -> None:
        tab = self.page.get_by_role("tab", name=name, exact=True)
        if tab.is_visible():
            tab.click()
        else:
            self.click(".overflow-menu > button")
            self.page.locator(".overflow-dropdown button", has_text=name).click()

    def choose(self, mode: str, **numbers: int) -> None:
        """Open "More settings" of a tab and type into its fields."""
        self.click(f"#more_{mode} > button")
        for name, number in numbers.items():
            self.page.locator(f"#{name}_{mode} input, #{name}_{mode} textarea").first.fill(str(number))

    def tab_to(self, name: str) -> None:
        """Press Tab until the button of this name has the focus."""
        for _ in range(TABS):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("document.activeElement.id") == name:
                return
        raise AssertionError(f"{name} is not reached within {TABS} presses of Tab")

    def generate(self, mode: str, panel: str = "") -> int:
        """Have a clip generated; returns the width of the video that then plays."""
        self.click(f"#generate_{mode}")
        return self.plays(panel or mode)

    def plays(self, panel: str) -> int:
        """Wait until a video plays in a panel; returns its width."""
        width = self.page.wait_for_function(PLAYING, arg=panel, polling=200).json_value()
        # Drawing it without a graphics card takes a core.
        self.page.evaluate("document.querySelectorAll('video').forEach(video => video.pause())")
        return width


@pytest.fixture(scope="module")
def shared_visit(served: Served, browser: Browser) -> Iterator[Visit]:
    visit = Visit(browser, served.url, locale="en-US")
    yield visit
    visit.page.close()


@pytest.fixture
def visit(shared_visit: Visit) -> Iterator[Visit]:
    """A page for several tests; in none of them may anything go wrong."""
    yield shared_visit
    assert shared_visit.wrong == []


def test_a_photo_becomes_a_clip_with_sound_in_three_clicks(served: Served, visit: Visit) -> None:
    page = visit.page
    with page.expect_file_chooser() as choosing:
        page.locator("#image_animate button:has-text('Click to Upload'), #image_animate .wrap").first.click()
    choosing.value.set_files(CIRCLE)
    page.locator("#suggestion_animate_0").wait_for(state="visible")
    visit.click("#suggestion_animate_0")
    page.wait_for_function(
        "() => [...document.querySelectorAll('textarea')].some(t => t.value.includes('red circle'))"
    )
    visit.click("#generate_animate")
    page.locator("#panel_animate progress").wait_for()
    page.locator("#panel_animate img.preview").wait_for()
    page.locator("#panel_animate video").wait_for()
    assert visit.plays("animate") == 64
    keep(page, "page")
    with page.expect_download() as loading:
        visit.click("#panel_animate a:has-text('GIF')")
    assert read_frames(_with_suffix(loading.value.path(), ".gif")).shape[0] == 16
    with page.expect_download() as loading:
        visit.click("#panel_animate a:has-text('MP4')")
    assert read_sound(_with_suffix(loading.value.path(), ".mp4"), 0, 10) is not None
    page.locator("#again_animate").wait_for(state="visible")
    visit.open_tab("My clips")
    assert page.locator("#clips video").first.wait_for() is None
    visit.click("#delete_all")
    page.get_by_text("Your clips are deleted.").wait_for()
    assert visit.hosts == {served.url.split("/")[2]}


def _with_suffix(path: Path, suffix: str) -> Path:
    target = path.with_suffix(suffix)
    target.write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize(
    ("locale", "language", "mode"), [("zh-CN", "zh", "interpolate"), ("uk-UA", "uk", "loop")]
)
def test_two_images_and_a_loop_on_a_phone_in_its_language(
    served: Served, browser: Browser, locale: str, language: str, mode: str
) -> None:
    visit = Visit(browser, served.url, locale=locale, viewport=PHONE, color_scheme="dark", has_touch=True)
    page, texts = visit.page, TEXTS[language]
    page.get_by_text(texts["lead"]).wait_for()
    assert page.evaluate("document.body.classList.contains('dark')")
    visit.open_tab(texts[mode])
    visit.click(f"#generate_{mode}")
    page.get_by_text(texts["need_image"]).wait_for()
    visit.click(f"#example_{mode}_0")
    page.wait_for_function(f"() => document.querySelector('#image_{mode} img')")
    visit.choose(mode, steps=1, frames=4)
    assert visit.generate(mode) == 64
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert visit.wrong == []
    page.close()


def test_a_story_and_a_person(visit: Visit) -> None:
    page = visit.page
    visit.open_tab("Story")
    with page.expect_file_chooser() as choosing:
        page.locator("#images_story button").first.click()
    choosing.value.set_files([CIRCLE])
    page.locator("#images_story").get_by_text("red_circle").wait_for()
    page.locator("#text_story textarea").fill("a red circle moves right\n\na red circle moves left")
    visit.choose("story", steps=1)
    assert visit.generate("story") == 64
    with page.expect_download() as loading:
        visit.click("#panel_story a:has-text('MP4')")
    film = _with_suffix(loading.value.path(), ".mp4")
    # The second scene repeats the end of the first one, which is shown once.
    assert 29 <= len(read_frames(film)) <= 31
    assert [scene["prompt"] for scene in read_metadata(film)["film"]][1] == "a red circle moves left"
    visit.open_tab("Person")
    visit.click("#example_person_jumping_jacks")
    page.wait_for_function("() => document.querySelector('#image_person img')")
    visit.choose("person", steps=1, frames=2)
    assert visit.generate("person") == 128
    with page.expect_download() as loading:
        visit.click("#panel_person a:has-text('WEBP')")
    clip = _with_suffix(loading.value.path(), ".webp")
    assert read_frames(clip).shape == (2, 192, 128, 3)
    assert read_metadata(clip)["poses"]["file"] == "poses.json"


def test_two_settings_are_compared_and_a_clip_is_cancelled(visit: Visit) -> None:
    """The last one, because the next clip would have to load PyTorch again."""
    visit.open_tab("Compare")
    visit.click("#example_compare_0")
    visit.page.wait_for_function("() => document.querySelector('#image_compare img')")
    for way in ("first_way", "second_way"):
        visit.page.locator(f"#steps_{way} input, #steps_{way} textarea").first.fill("1")
    assert visit.generate("compare", "first_way") == 64
    assert visit.plays("second_way") == 64
    visit.open_tab("Image")
    visit.click("#example_animate_1")
    visit.page.wait_for_function("() => document.querySelector('#image_animate img')")
    visit.choose("animate", steps=ENDLESS)
    # By the keyboard alone, from the field that was filled last.
    visit.tab_to("generate_animate")
    visit.page.keyboard.press("Enter")
    visit.page.locator("#panel_animate progress").wait_for()
    # Tab skips what is not enabled yet.
    visit.page.locator("#cancel_animate:enabled").wait_for()
    visit.tab_to("cancel_animate")
    visit.page.keyboard.press("Enter")
    visit.page.get_by_text("Cancelled.").wait_for()
    assert visit.page.locator("#generate_animate").is_enabled()
