"""The parts of the page without Gradio: limits, results of visitors, the queue, the door, its languages."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import numpy as np
import pytest

from dynamicrafter.api import find_model, provide, variant_of
from dynamicrafter.backends.openvino.manifest import (
    DYNAMICRAFTER,
    Manifest,
    Source,
    exports_folder,
    write_manifest,
)
from dynamicrafter.cli import main
from dynamicrafter.cli.words import WORDS
from dynamicrafter.errors import Cancelled, ClipError, DynamiCrafterError, UsageError
from dynamicrafter.jobs.lines import Job, ModelChoice
from dynamicrafter.jobs.pool import Lost, Show, Take, Task, Tell
from dynamicrafter.model.variants import TINY
from dynamicrafter.page.blocks import Page, whole_number
from dynamicrafter.page.desk import Desk, PersonWish, StoryWish, Visitor, offered_models, offered_persons
from dynamicrafter.page.door import COOKIE, FILES, HEALTH, OWNER, VISITOR, Access, Door, read_logins
from dynamicrafter.page.examples import PageExample, PageExamples
from dynamicrafter.page.limits import Limits, check_limits
from dynamicrafter.page.line import Line, Ticket
from dynamicrafter.page.panels import history_panel, models_panel, moving_preview, progress_panel
from dynamicrafter.page.shelf import Result, Shelf, write_kinds
from dynamicrafter.page.tasks import FilmTask, PersonTask
from dynamicrafter.page.words import LANGUAGES, TEXTS, language_of, said
from dynamicrafter.settings import Settings, make_settings
from dynamicrafter.weights.catalogue import find
from dynamicrafter.weights.detect import variant_metadata
from dynamicrafter.weights.identity import remembered_hash

ALICE, BOB = "a" * 32, "b" * 32
JOB, OTHER = "1" * 32, "2" * 32
FRAMES = np.zeros((2, 16, 16, 3), np.uint8)


def settings(**choices: Any) -> Settings:
    return make_settings(TINY, "animate", **choices)


def ticket(number: int = 0, owner: str = "one", **more: Any) -> Ticket:
    name = f"{number:032x}"
    job = Job(number, name, settings(), (), ModelChoice(), "")
    return Ticket(
        ALICE, owner, job, Result(name, "waves", "animate", "tiny", 1, 64, 64, 0.0, 0.0), {}, **more
    )


# Limits and words


def test_limits_are_kept() -> None:
    limits = Limits(frames=16, steps=10, pixels=64 * 64)
    check_limits(settings(frames=16, steps=10), limits)
    with pytest.raises(
        UsageError, match="at most 16 frames are allowed here, but 17 were asked for; use fewer"
    ):
        check_limits(settings(frames=17, steps=10), limits)
    with pytest.raises(
        UsageError, match="at most 10 steps are allowed here, but 11 were asked for; use fewer"
    ):
        check_limits(settings(steps=11), limits)
    with pytest.raises(UsageError, match="at most 4096 pixels are allowed here, but 128x64 was asked for"):
        check_limits(settings(steps=10, size=(128, 64)), limits)
    with pytest.raises(UsageError, match="daily must be more than 0, but 0 was given"):
        Limits(daily=0)


def test_all_languages_say_the_same() -> None:
    for language in LANGUAGES:
        assert TEXTS[language].keys() == TEXTS["en"].keys()
        for key, text in TEXTS[language].items():
            fields = set(re.findall(r"{\w+}", text))
            assert fields == set(re.findall(r"{\w+}", TEXTS["en"][key])), (language, key)


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("uk,en;q=0.5", "uk"),
        ("en;q=0.5,uk;q=0.9", "uk"),
        ("de,fr", "en"),
        ("", "en"),
        ("uk;q=many", "en"),
    ],
)
def test_the_browser_chooses_the_language(accepted: str, language: str) -> None:
    assert language_of(accepted) == language


# Results


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "results", hours=1)


def result(job: str, **changes: Any) -> Result:
    values = {"prompt": "waves", "mode": "animate", "model": "tiny", "seed": 1, "width": 16, "height": 16}
    return Result(job, **{**values, "seconds": 1.0, "made": time.time(), **changes})


def finished(shelf: Shelf, visitor: str = ALICE, job: str = JOB, **changes: Any) -> Result:
    place = shelf.begin(visitor, job)
    (place / "picture0.png").write_bytes(b"image")
    (place / "frames").mkdir()
    made = result(job, **changes)
    write_kinds(place, FRAMES, 8, {})
    shelf.finish(visitor, made)
    return made


def test_a_visitor_finds_only_its_own_results(shelf: Shelf) -> None:
    result = finished(shelf)
    for kind in ("mp4", "gif", "webp"):
        found = shelf.find(ALICE, JOB, kind)
        assert found is not None
        assert found.stat().st_size
        assert shelf.find(BOB, JOB, kind) is None
    assert shelf.history(ALICE) == [result]
    assert shelf.history(BOB) == []
    kept = {"clip.gif", "clip.mp4", "clip.webp", "result.json"}
    assert {path.name for path in (shelf.folder / ALICE / JOB).iterdir()} == kept
    assert shelf.folder.stat().st_mode & 0o077 == 0 or os.name == "nt"


@pytest.mark.parametrize(
    ("visitor", "job", "kind"),
    [
        (ALICE, "..", "mp4"),
        (f"../{ALICE}", JOB, "mp4"),
        (ALICE, JOB, "mp4/../../secret"),
        (ALICE, JOB, "json"),
        ("", JOB, "mp4"),
        (ALICE, f"{JOB}/.", "mp4"),
        (ALICE, f"{JOB}\n", "mp4"),
        (ALICE.upper(), JOB, "mp4"),
    ],
)
def test_paths_lead_nowhere_else(shelf: Shelf, visitor: str, job: str, kind: str) -> None:
    finished(shelf)
    (shelf.folder / "secret").write_text("secret")
    assert shelf.find(visitor, job, kind) is None


def test_links_are_not_followed(shelf: Shelf, tmp_path: Path) -> None:
    finished(shelf)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "clip.mp4").write_text("secret")
    (secret / "result.json").write_text("{}")
    clip = shelf.folder / ALICE / JOB / "clip.mp4"
    clip.unlink()
    clip.symlink_to(secret / "clip.mp4")
    assert shelf.find(ALICE, JOB, "mp4") is None
    (shelf.folder / ALICE / OTHER).symlink_to(secret)
    assert shelf.find(ALICE, OTHER, "mp4") is None
    (shelf.folder / BOB).symlink_to(shelf.folder / ALICE)
    assert shelf.find(BOB, JOB, "gif") is None
    shelf.forget(ALICE, [OTHER])
    shelf.sweep(time.time() + 1e6)
    assert (secret / "clip.mp4").exists()


def test_results_are_deleted_after_their_time(shelf: Shelf) -> None:
    finished(shelf)
    shelf.sweep(time.time() + 3000)
    assert shelf.history(ALICE)
    waiting = shelf.begin(ALICE, OTHER)
    shelf.sweep(time.time() + 4000)
    assert list((shelf.folder / ALICE).iterdir()) == [waiting], "what it is made from is needed"
    shelf.forget(ALICE, [OTHER])
    assert not list(shelf.folder.iterdir())


def test_all_results_of_a_visitor_are_known(shelf: Shelf) -> None:
    for number in range(300):
        place = shelf.begin(ALICE, f"{number:032x}")
        (place / "result.json").write_text(json.dumps(asdict(result(f"{number:032x}"))), encoding="utf-8")
    assert len(shelf.history(ALICE)) == 300


def test_two_pages_have_two_folders(shelf: Shelf, tmp_path: Path) -> None:
    with shelf.alone():
        told = "another page keeps its results in .*results; end it, or choose another folder with --results"
        with pytest.raises(UsageError, match=told), Shelf(shelf.folder, hours=1).alone():
            pass
        with Shelf(tmp_path / "other", hours=1).alone():
            pass
    with Shelf(shelf.folder, hours=1).alone():
        pass


@pytest.mark.parametrize("given", ["9007199254740993", 9007199254740993])
def test_large_seeds_stay_whole(given: object) -> None:
    assert whole_number("seed", given) == 9007199254740993
    assert whole_number("seed", 7.0) == 7
    with pytest.raises(UsageError, match=r"seed must be a whole number, but '7\.5' was given; correct it"):
        whole_number("seed", 7.5)


def test_what_was_not_finished_is_cleared(shelf: Shelf) -> None:
    finished(shelf)
    shelf.begin(ALICE, OTHER)
    (shelf.folder / "other program").mkdir()
    shelf.clear_unfinished()
    assert {path.name for path in (shelf.folder / ALICE).iterdir()} == {JOB}
    assert (shelf.folder / "other program").is_dir()


def test_a_full_disk_is_one_sentence(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(ClipError, match="could not be stored .No space left on device.; try again later"):
        shelf.begin(ALICE, JOB)
    with pytest.raises(ClipError, match="cannot be created .No space left on device.; choose another one"):
        Shelf(shelf.folder / "more", 1)


# The queue


class Hand:
    """A worker that makes a clip when it is let."""

    def __init__(self, does: Callable[[Job, Tell], Take]) -> None:
        self.name, self._does, self.closed = "hand", does, False

    def make(self, job: Job, tell: Tell) -> Take:
        return self._does(job, tell)

    def close(self) -> None:
        self.closed = True


def take(job: Job, tell: Tell) -> Take:
    return Take(FRAMES, None)


@pytest.fixture
def lines() -> Iterator[Callable[..., tuple[Line, list[Ticket], list[Ticket]]]]:
    """A function of what a worker does and of limits, to a line, what it kept and what it dropped."""
    opened: list[Line] = []

    def open_it(does: Callable[[Job, Tell], Take] = take, **limits: Any) -> Any:
        kept: list[Ticket] = []
        dropped: list[Ticket] = []
        line = Line([lambda _: Hand(does)], lambda one, _: kept.append(one), dropped.append, Limits(**limits))
        opened.append(line)
        return line, kept, dropped

    yield open_it
    for line in opened:
        line.close()


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_clips_are_made_in_order_and_none_is_lost(lines: Any) -> None:
    line, kept, dropped = lines(queue=10)
    tickets = [line.join(ticket(number, f"user {number}")) for number in range(10)]
    wait_for(lambda: all(one.ended for one in tickets))
    assert kept == tickets
    assert not dropped
    assert {one.state for one in tickets} == {"done"}


def test_a_place_in_the_queue_and_cancelling(lines: Any) -> None:
    go = threading.Event()

    def patient(job: Job, tell: Tell) -> Take:
        tell("sample", 1, 4)
        while not go.wait(0.005):
            tell("load", 0, 0)
        return Take(FRAMES, None)

    line, kept, dropped = lines(patient)
    first, second, third = (line.join(ticket(number)) for number in range(3))
    wait_for(lambda: first.work == "sample")
    assert [line.place(one) for one in (first, second, third)] == [0, 1, 2]
    assert (first.seconds_left() or 0) > 0
    assert "Generating: step 1 of 4" in progress_panel(first, line, TEXTS["en"])
    assert "Waiting: place 2 of 2" in progress_panel(third, line, TEXTS["en"])
    line.cancel(second)
    assert second.state == "cancelled"
    assert line.place(third) == 1
    line.cancel(first)
    wait_for(lambda: first.ended)
    assert first.state == "cancelled"
    go.set()
    wait_for(lambda: third.ended)
    assert (kept, dropped) == ([third], [second, first])
    assert line.find(BOB, third.identifier) is None
    assert line.find(ALICE, third.identifier) is third


def test_limits_of_a_visitor_and_of_all(lines: Any) -> None:
    stop = threading.Event()

    def blocked(job: Job, tell: Tell) -> Take:
        while not stop.wait(0.005):
            tell("load", 0, 0)
        raise Cancelled

    line, _, _ = lines(blocked, queued=2, queue=3, daily=3)
    line.join(ticket(0))
    line.join(ticket(1))
    with pytest.raises(
        UsageError,
        match="at most 2 clips of one visitor can wait at once; wait, or cancel one",
    ):
        line.join(ticket(2))
    line.join(ticket(3, "another"))
    with pytest.raises(UsageError, match="the queue is full with 3 clips; try again later"):
        line.join(ticket(4, "a third"))
    stop.set()


@pytest.fixture
def gradio(desk: tuple[Desk, Helper]) -> MagicMock:
    """Gradio after a page was built with it."""
    gr = MagicMock()
    examples = PageExamples(
        (PageExample(Path("a"), Path("b"), "a circle"),) * 2, Path("c"), {"walking": Path("d")}
    )
    Page(gr, desk[0], examples, "").build()
    return gr


def test_the_pages_that_gradio_remembers_follow_the_limit(
    gradio: MagicMock, desk: tuple[Desk, Helper]
) -> None:
    blocks = gradio.Blocks.return_value.__enter__.return_value
    assert blocks.state_session_capacity == 2 * desk[0].limits.queue


def test_a_suggestion_of_a_page_that_was_forgotten_changes_nothing(gradio: MagicMock) -> None:
    clicked = [call.args[0] for call in gradio.Button.return_value.click.call_args_list]
    take = next(one for one in clicked if getattr(one, "args", ()) == (1,))
    plans = [("a circle", 0.5, "sea"), ("a square", 0.7, "")]
    assert take(plans) == plans[1]
    assert take(plans[:1]) == [gradio.skip.return_value] * 3


def test_clips_of_a_day_are_counted(lines: Any) -> None:
    line, _, _ = lines(daily=2)
    for number in range(2):
        one = line.join(ticket(number))
        wait_for(lambda one=one: one.ended)
    with pytest.raises(UsageError, match="at most 2 clips can be made in 24 hours, and 2 of yours are"):
        line.join(ticket(2))
    with pytest.raises(UsageError, match="and 0 of yours are; come back tomorrow"):
        line.join(ticket(3, "another", clips=3))
    line.join(ticket(3, "another", clips=2))
    with pytest.raises(UsageError, match="and 2 of yours are; come back tomorrow"):
        line.join(ticket(4, "another"))


def test_a_killed_worker_loses_no_clip(lines: Any) -> None:
    lost: list[Job] = []

    def killed_once(job: Job, tell: Tell) -> Take:
        if not lost:
            lost.append(job)
            raise Lost("the process has ended with exit code -9", gone=False)
        return Take(FRAMES, None)

    line, kept, _ = lines(killed_once)
    one, other = line.join(ticket(0)), line.join(ticket(1))
    wait_for(lambda: other.ended)
    assert kept == [one, other]
    assert one.attempts == 2


def test_a_clip_that_kills_every_worker_fails(lines: Any) -> None:
    def killed(job: Job, tell: Tell) -> Take:
        raise Lost("the process has ended with exit code -9", gone=False)

    line, _, dropped = lines(killed)
    one = line.join(ticket())
    wait_for(lambda: one.ended)
    assert (one.state, dropped) == ("failed", [one])
    with pytest.raises(DynamiCrafterError, match="exit code -9; it may need more memory than there is"):
        raise one.problem or AssertionError


def test_what_waits_fails_with_the_last_worker(lines: Any) -> None:
    def gone(job: Job, tell: Tell) -> Take:
        time.sleep(0.05)
        raise Lost("the server has ended", gone=True)

    line, _, _ = lines(gone)
    one, other = line.join(ticket(0)), line.join(ticket(1))
    wait_for(lambda: one.ended and other.ended)
    assert (one.state, other.state) == ("failed", "failed")
    wait_for(lambda: not line.alive)
    with pytest.raises(UsageError, match="nothing is left to generate clips with; tell whoever runs"):
        line.join(ticket(2))


def test_an_unexpected_error_ends_one_clip_alone(lines: Any) -> None:
    def broken(job: Job, tell: Tell) -> Take:
        if job.line == 0:
            raise ZeroDivisionError("division by zero")
        return Take(FRAMES, None)

    line, kept, _ = lines(broken)
    one, other = line.join(ticket(0)), line.join(ticket(1))
    wait_for(lambda: other.ended)
    assert kept == [other]
    assert "unexpected error (ZeroDivisionError: division by zero)" in progress_panel(one, line, TEXTS["en"])


def test_finished_clips_are_forgotten_in_the_end(lines: Any) -> None:
    line, kept, _ = lines(daily=2000, queued=2000, queue=2000)
    for number in range(700):
        line.join(ticket(number))
    wait_for(lambda: len(kept) == 700)
    last = line.join(ticket(700))
    wait_for(lambda: last.ended)
    assert len(line._tickets) <= 502
    assert line.find(ALICE, kept[0].identifier) is None


def test_previews_are_shown_while_a_clip_is_made() -> None:
    shows: list[Show] = []
    go = threading.Event()

    def shown(job: Job, tell: Tell) -> Take:
        shows[0](np.full((2, 8, 8, 3), 200, np.uint8))
        go.wait(20)
        return Take(FRAMES, None)

    def crew(show: Show) -> Hand:
        shows.append(show)
        return Hand(shown)

    line = Line([crew], lambda *_: None, lambda _: None, Limits())
    try:
        one = line.join(ticket())
        wait_for(lambda: one.preview is not None)
        assert "data:image/webp;base64," in progress_panel(one, line, TEXTS["en"])
        go.set()
        wait_for(lambda: one.ended)
        assert one.preview is None
    finally:
        go.set()
        line.close()


# Films and persons


class Helper(Hand):
    """A worker that finishes a task by writing clips of two frames."""

    def __init__(self, does: Callable[[Job, Tell], Take] = take) -> None:
        super().__init__(does)
        self.done: list[Task] = []

    def do(self, task: Task, tell: Tell) -> None:
        tell("sample", 1, 2)
        self.done.append(task)
        if isinstance(task, FilmTask):
            write_kinds(task.plan.target.parent, FRAMES, 8, {})


@pytest.fixture
def desk(shelf: Shelf) -> Iterator[tuple[Desk, Helper]]:
    helper = Helper()
    models = offered_models(ModelChoice(), "torch", {})
    opened = Desk(models, [lambda _: helper], shelf, Limits(film=64), offered_persons("torch", {}))
    yield opened, helper
    opened.close()


EVA = Visitor(ALICE, "address 10.0.0.9")
PICTURES = Path(__file__).resolve().parents[2] / "pictures"
CIRCLE, SQUARE = (str(PICTURES / f"{name}.png") for name in ("red_circle", "blue_square"))
TEXT = "a circle\n\nit goes on\n\n[Blue_Square.png] a square"


def test_a_story_is_queued_as_one_film(desk: tuple[Desk, Helper], shelf: Shelf) -> None:
    opened, helper = desk
    film = opened.submit_story(EVA, StoryWish(TEXT, (CIRCLE, SQUARE), "tiny", seed=7, steps=2))
    wait_for(lambda: film.ended)
    assert (film.state, film.clips) == ("done", 3)
    (task,) = helper.done
    assert isinstance(task, FilmTask)
    assert [piece.joint for piece in task.plan.pieces] == ["cut", "shared", "cut"]
    # Copies, so that what is uploaded later under the same name changes nothing.
    assert all(
        path is None or path.parent == task.plan.target.parent for path in task.plan.pieces[0].pictures
    )
    (listed,) = shelf.history(ALICE)
    assert (listed.mode, listed.seed, listed.prompt) == ("story", 7, "a circle / it goes on / a square")
    assert [one["steps"] for one in film.settings["clips"]] == [2, 2, 2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[/etc/passwd] a circle", "there is no file '/etc/passwd' among the uploaded images"),
        ("[../red_circle.png/../secret.png] a circle", "there is no file .* among the uploaded images"),
        (
            "scenes:\n- {picture: red_circle.png, sound: /etc/secret.wav}",
            "there is no file '/etc/secret.wav'",
        ),
        ("scenes:\n- {picture: between red_circle.png and /etc/b.png}", "there is no file '/etc/b.png'"),
        ("scenes: &a\n- *a", "aliases are not allowed"),
        ("scenes: !!python/object/apply:os.system ['true']", "the story is not a story in YAML"),
        ("scenes:\n- {picture: red_circle.png, seconds: 9}", "at most 64 frames are allowed here, but 72"),
        ("scenes:\n- {picture: red_circle.png, steps: 99}", "at most 60 steps are allowed here, but 99"),
        (
            "a\n\nb\n\nc\n\nd\n\ne",
            "films of at most 64 frames are allowed here, but the clips of this one have 80",
        ),
        ("", "the text has no paragraphs"),
        ("x" * 10_001, "a story may have 10,000 characters, but 10,001 were given; shorten it"),
    ],
)
def test_a_story_names_nothing_but_uploads(desk: tuple[Desk, Helper], text: str, told: str) -> None:
    opened, helper = desk
    with pytest.raises(UsageError, match=told):
        opened.submit_story(EVA, StoryWish(text, (CIRCLE,), "tiny"))
    assert not helper.done
    assert not list(opened.shelf.folder.glob(f"{ALICE}/*"))


def test_only_what_the_backend_runs_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An export is known by its manifest; what runs it is tested elsewhere."""
    monkeypatch.setenv("DYNAMICRAFTER_HOME", str(tmp_path))
    words = ["serve", "--backend", "openvino", "--results", str(tmp_path / "results")]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "tiny has not been exported for OpenVINO; export it with 'dynamicrafter export tiny'" in told

    files = provide(find_model("random"))
    source = Source("weights", files.weights.name, remembered_hash(files.weights))
    folder = exports_folder([source])
    folder.mkdir(parents=True)
    for name in DYNAMICRAFTER.files:
        (folder / name).touch()
    described = variant_metadata(variant_of(files))
    write_manifest(
        folder, Manifest("random", (source,), described, "fp16", "2026.0", "2.0", ()), DYNAMICRAFTER
    )
    refused: dict[str, DynamiCrafterError] = {}
    assert list(offered_models(ModelChoice("random"), "openvino", refused)) == ["random"]
    assert not offered_persons("openvino", refused)
    assert {name: problem.said(WORDS) for name, problem in refused.items()} == {
        name: f"{name} has not been exported for OpenVINO; export it with 'dynamicrafter export {name}'"
        for name in ("tiny", "tiny_person")
    }
    assert list(offered_models(ModelChoice("random"), "torch", {})) == ["random", "tiny"]


def test_a_film_is_planned_for_the_backend_that_makes_it(shelf: Shelf) -> None:
    helper = Helper()
    models = offered_models(ModelChoice(), "torch", {})
    opened = Desk(models, [lambda _: helper], shelf, Limits(), backend="openvino")
    wish = StoryWish("scenes:\n- {picture: red_circle.png, pag_scale: 3}", (CIRCLE,), "tiny")
    try:
        with pytest.raises(
            UsageError,
            match="stg_scale and pag_scale change layers of the network, which must be a single one",
        ):
            opened.submit_story(EVA, wish)
        film = opened.submit_story(EVA, replace(wish, text="a circle"))
        wait_for(lambda: film.ended)
        (task,) = helper.done
        assert isinstance(task, FilmTask)
        assert task.plan.backend == "openvino"
    finally:
        opened.close()


def test_a_story_needs_images(desk: tuple[Desk, Helper]) -> None:
    with pytest.raises(UsageError, match="a story needs 1 to 32 images, but 0 were given; upload them"):
        desk[0].submit_story(EVA, StoryWish("a circle", (), "tiny"))


def test_a_person_is_queued(desk: tuple[Desk, Helper]) -> None:
    opened, helper = desk
    wish = PersonWish(
        str(PICTURES / "character.png"), str(PICTURES / "walking.json"), "tiny_person", frames=3
    )
    asked = opened.submit_person(EVA, wish)
    wait_for(lambda: asked.ended)
    (task,) = helper.done
    assert isinstance(task, PersonTask)
    assert (task.shot.settings.width, task.shot.settings.fit, task.shot.choices.frames) == (128, "pad", 3)
    assert task.shot.poses.name == "poses.json"
    for changes, told in (
        ({"model": "512"}, "there is no model of persons '512' here; they are tiny_person"),
        ({"poses": CIRCLE}, "poses are .json, .mp4, .webm, .gif, .webp, but 'red_circle.png' was given"),
        ({"steps": 61}, "at most 60 steps are allowed here, but 61 were asked for"),
        ({"frames": 65}, "at most 64 frames are allowed here, but 65 were asked for"),
    ):
        with pytest.raises(UsageError, match=told):
            opened.submit_person(EVA, replace(wish, **changes))


def test_what_servers_are_not_sent_is_refused_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["serve", "--server", "http://127.0.0.1:9", "--results", str(tmp_path)]
    assert main([*words, "--lora", str(tmp_path / "style.safetensors")]) == 2
    told = (
        "tiny has LoRA files or encoders, which are not sent to a server; remove them, or generate it on this"
    )
    assert told in capsys.readouterr().err


def test_servers_do_no_tasks(lines: Any) -> None:
    line, _, _ = lines()
    assert not line.does_tasks
    one = ticket()
    one.job = FilmTask(JOB, cast(Any, None))
    line.join(one)
    wait_for(lambda: one.ended)
    assert one.problem is not None
    assert "films and persons are not made on servers" in one.problem.facts


def test_errors_do_not_name_folders() -> None:
    told = said(ClipError("/tmp/a/b/boat.png is no image, unlike http://a.example/b/c; use and/or not 1/2"))
    assert told == "boat.png is no image, unlike http://a.example/b/c; use and/or not 1/2"


def test_a_preview_moves() -> None:
    frames = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (0, 128, 255)])
    content = base64.b64decode(moving_preview(frames).partition(",")[2])
    assert content[8:16] == b"WEBPVP8X"
    assert content.count(b"ANMF") == 3


def test_prompts_are_text_in_the_page() -> None:
    result = Result(JOB, '<script>alert("{{x}}${y}`")</script>', "animate", "tiny", 1, 16, 16, 1.0, 0.0)
    shown = history_panel([result], "", TEXTS["en"])
    assert "<script" not in shown
    assert not set("{}$`") & set(shown)


def test_models_that_are_not_here_say_what_they_download() -> None:
    shown = models_panel(["tiny"], [find("512")], TEXTS["en"])
    assert "tiny knows coloured shapes only" in shown
    assert "<b>512</b>" in shown
    # The model and the encoders that it needs.
    assert "7.1 GB" in shown
    assert "tiny knows" not in models_panel(["512", "tiny"], [], TEXTS["en"])


# The door


def ask(
    access: Access,
    path: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    answer: bytes = b"[]",
    door: Door | None = None,
    shared: Path = Path("/nowhere"),
    scheme: str = "http",
) -> tuple[int, dict[str, str], list[dict[str, Any]]]:
    """Status, headers and what the application inside was asked."""
    seen: list[dict[str, Any]] = []
    sent: list[dict[str, Any]] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        told = {name: value.decode() for name, value in scope["headers"]}
        message = await receive() if scope["method"] == "POST" else {}
        seen.append({"path": scope["path"], "headers": told, "body": message.get("body", b"")})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:7860", **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "scheme": scheme,
        "client": ("10.0.0.9", 5),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    if door is None:
        door = Door(inside, access, Limits(upload=1), shared)
    else:
        door._inside = inside
    asyncio.run(door(scope, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}, seen


@pytest.mark.parametrize(
    ("access", "host", "status"),
    [
        (Access(), "127.0.0.1:7860", 200),
        (Access(), "localhost:1234", 200),
        (Access(), "LOCALHOST", 200),
        (Access(), "[::1]:7860", 200),
        (Access(), "evil.example", 421),
        (Access(), "127.0.0.1.evil.example", 421),
        (Access(), "192.168.1.5", 421),
        (Access(), "", 421),
        (Access(names=("studio.example.org",)), "studio.example.org", 200),
        (Access("0.0.0.0"), "192.168.1.5:7860", 200),
        (Access("0.0.0.0"), "evil.example", 421),
        (Access("Studio.local"), "studio.local:7860", 200),
        (Access("studio.local"), "evil.example", 421),
    ],
)
def test_only_names_of_the_page_are_answered(access: Access, host: str, status: int) -> None:
    assert ask(access, "/", headers={"host": host})[0] == status


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {"origin": "http://127.0.0.1:7860"}, 200),
        ("POST", {"origin": "http://evil.example"}, 403),
        ("POST", {"origin": "http://127.0.0.1:1"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("POST", {"sec-fetch-site": "cross-site"}, 403),
        ("POST", {"sec-fetch-site": "same-site"}, 403),
        ("POST", {"sec-fetch-site": "same-origin"}, 200),
        ("POST", {}, 200),
        ("GET", {"origin": "http://evil.example"}, 403),
        ("GET", {"sec-fetch-site": "cross-site"}, 200),
        ("DELETE", {}, 405),
    ],
)
def test_other_sites_are_not_answered(method: str, headers: dict[str, str], status: int) -> None:
    path = "/gradio_api/queue/join" if method == "POST" else "/"
    assert ask(Access(), path, method, headers)[0] == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        (HEALTH, 200),
        ("/assets/index.js", 200),
        ("/gradio_api/queue/data", 200),
        ("/gradio_api/proxy=http://127.0.0.1/", 404),
        ("/gradio_api/vibe-edit/", 404),
        ("/gradio_api/component_server", 404),
        ("/gradio_api/stream/abc", 404),
        ("/monitoring", 404),
        ("/gradio_api/run/predict", 404),
        ("/gradio_api/deep_link", 404),
        ("/elsewhere", 404),
    ],
)
def test_what_the_page_does_not_need_is_not_there(path: str, status: int) -> None:
    assert ask(Access(), path)[0] == status


def test_files_are_those_of_the_visitor(tmp_path: Path) -> None:
    (tmp_path / "example.png").write_bytes(b"")
    secret = tmp_path.parent / "secret.png"
    secret.write_bytes(b"")
    (tmp_path / "link.png").symlink_to(secret)
    path = "/tmp/uploads/0123/photo.png"
    door = Door(None, Access(), Limits(), tmp_path)  # pyright: ignore[reportArgumentType]
    alice, bob = ({"cookie": f"other=1; {COOKIE}={visitor}"} for visitor in (ALICE, BOB))
    answer = json.dumps([path]).encode()
    upload = {**alice, "content-length": "10"}
    assert ask(Access(), "/gradio_api/upload", "POST", upload, answer=answer, door=door)[0] == 200

    def status(file: str, headers: dict[str, str]) -> int:
        return ask(Access(), FILES + file, headers=headers, door=door)[0]

    assert status(path, alice) == 200
    assert status(path, bob) == 403
    assert status(path, {}) == 403
    assert status(str(tmp_path / "example.png"), bob) == 200
    for other in (
        f"{path}/../../../etc/passwd",
        "/etc/passwd",
        str(tmp_path / ".." / "secret.png"),
        str(tmp_path / "link.png"),
        "example.png",
        "http://evil.example/",
        "\x00",
    ):
        assert status(other, alice) == 403, other

    def join(file: Any, headers: dict[str, str]) -> int:
        body = json.dumps({"data": [{"meta": {"_type": "gradio.FileData"}, **file}]}).encode()
        return ask(Access(), "/gradio_api/queue/join", "POST", headers, body, door=door)[0]

    own = f"http://127.0.0.1:7860{FILES}{path}"
    assert join({"path": path, "url": own}, alice) == 200
    assert join({"path": path}, alice) == 200
    assert join({"path": path}, bob) == 403
    assert join({"path": "/etc/passwd"}, alice) == 403
    assert join({"path": "http://evil.example/a.png"}, alice) == 403
    assert join({"path": path, "url": "http://evil.example/a.png"}, alice) == 403
    assert join({"path": path, "url": f"data:image/png;base64,AA{FILES}"}, alice) == 403
    assert join({"url": own}, alice) == 403
    assert join({"path": 5}, alice) == 403


def test_bodies_are_bounded() -> None:
    path = "/gradio_api/queue/join"
    assert ask(Access(), path, "POST", body=b"x" * 300_000)[0] == 413
    assert ask(Access(), path, "POST", {"content-length": "999999999"})[0] == 413
    assert ask(Access(), path, "POST", {"content-length": "-1"})[0] == 413
    assert ask(Access(), path, "POST", body=b"[" * 100)[0] == 400
    assert ask(Access(), "/gradio_api/upload", "POST", {"content-length": "1100001"})[0] == 413
    assert ask(Access(), "/gradio_api/upload", "POST")[0] == 411


def test_who_asks_is_told_by_the_door_alone() -> None:
    forged = {VISITOR.decode(): BOB, OWNER.decode(): "login root", "cookie": f"{COOKIE}={ALICE}"}
    _, headers, seen = ask(Access(), "/", headers=forged)
    assert seen[0]["headers"][VISITOR] == ALICE
    assert seen[0]["headers"][OWNER] == "address 10.0.0.9"
    assert "set-cookie" not in headers
    _, headers, seen = ask(Access(), "/", headers={"cookie": f"{COOKIE}=../../etc"})
    assert headers["set-cookie"].startswith(f"{COOKIE}={seen[0]['headers'][VISITOR]}; Path=/; HttpOnly")
    assert "SameSite=Lax" in headers["set-cookie"]


def test_the_page_can_be_framed_only_by_named_sites() -> None:
    assert ask(Access(), "/")[1]["content-security-policy"].endswith("frame-ancestors 'self'")
    access = Access(embed=("https://example.org",))
    _, headers, _ = ask(access, "/", scheme="https")
    assert headers["content-security-policy"].endswith("frame-ancestors 'self' https://example.org")
    assert headers["set-cookie"].endswith("SameSite=None; Partitioned; Secure")
    with pytest.raises(
        UsageError, match="must be like https://example.org, not 'example.org; script-src \\*'"
    ):
        Access(embed=("example.org; script-src *",))


def test_a_root_path_may_be_cut_off_by_the_proxy_or_not() -> None:
    access = Access(root="/studio")
    for path in ("/studio/gradio_api/info", "/gradio_api/info"):
        assert ask(access, path)[2][0]["path"] == "/gradio_api/info"
    assert ask(access, "/studio")[2][0]["path"] == "/"
    assert ask(access, "/studios")[0] == 404
    assert "Path=/studio;" in ask(access, "/")[1]["set-cookie"]
    with pytest.raises(UsageError, match="the root path must be like /studio, without a slash at its end"):
        Access(root="studio/")


def test_a_login_is_asked_for(tmp_path: Path) -> None:
    logins = tmp_path / "logins"
    logins.write_text("eva:pass:word\n\nnobody\n", encoding="utf-8")
    if os.name == "posix":
        logins.chmod(0o644)
        with pytest.raises(UsageError, match="others on this machine can read; run chmod 600 on it"):
            read_logins(logins)
    logins.chmod(0o600)
    access = Access(logins=read_logins(logins))
    door = Door(None, access, Limits(), tmp_path)  # pyright: ignore[reportArgumentType]

    def status(login: str | None, path: str = "/") -> int:
        value = "" if login is None else f"Basic {base64.b64encode(login.encode()).decode()}"
        headers = {} if login is None else {"authorization": value}
        return ask(access, path, headers=headers, door=door)[0]

    assert status(None) == 401
    assert status(None, HEALTH) == 200
    assert status(None, f"/results/{JOB}/clip.mp4") == 401
    assert status("eva:pass:word") == 200
    for wrong in ("eva:", "nobody:", ":", "eva:pass"):
        assert status(wrong) == 401
    for _ in range(6):
        status("eva:wrong")
    assert status("eva:pass:word") == 429
    logins.write_text("nobody\n", encoding="utf-8")
    with pytest.raises(UsageError, match="contains no login; write name:password on a line of it"):
        read_logins(logins)
    with pytest.raises(UsageError, match="cannot be read .*; check the name of the file"):
        read_logins(tmp_path / "missing")
