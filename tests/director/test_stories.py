"""Stories: how they are written, what is generated for them, and the films that are joined of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_model import LanguageModelServer, good, refusal
from PIL import Image

import dynamicrafter
from dynamicrafter.api import find_model
from dynamicrafter.cli import main
from dynamicrafter.director import chat, film
from dynamicrafter.director.film import FilmPlan, Models, film_seconds, make_film, plan_film
from dynamicrafter.director.loudness import loudness, true_peak
from dynamicrafter.director.plan import PlanError
from dynamicrafter.director.profiles import VARIABLE, Profile, write_profile
from dynamicrafter.director.scenes import (
    Story,
    StoryScene,
    read_story,
    story_of,
    story_of_text,
    story_of_yaml,
)
from dynamicrafter.director.shot_list import length_for
from dynamicrafter.director.soundtrack import film_sound
from dynamicrafter.director.splitting import read_split
from dynamicrafter.errors import Cancelled, ClipError, UsageError
from dynamicrafter.forms import to_json
from dynamicrafter.media.video import open_clip, read_frames, read_metadata, read_sound, write_clip
from dynamicrafter.model.variants import TINY, VARIANTS
from dynamicrafter.page.tasks import FilmTask
from dynamicrafter.records import KnownFile, KnownModel, Record, know_pictures, read_record
from dynamicrafter.settings import clip_length
from dynamicrafter.shots import Made, Means

PICTURES = Path(__file__).resolve().parents[2] / "pictures"
TINY_FILES = find_model("tiny")
HEAD = "scenes:\n"


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures, and no profiles."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "settings" / "models.toml"))
    monkeypatch.setattr(chat, "_PAUSE", 0.001)
    monkeypatch.chdir(tmp_path)
    for name, start in (("a.png", "red_circle"), ("b.png", "blue_square")):
        shutil.copy(PICTURES / f"{start}.png", name)
    return tmp_path


# How a story is written


def test_a_story_without_a_file_is_yaml_if_it_has_scenes() -> None:
    told = story_of("sound: sea\nscenes:\n- {picture: 2, prompt: a}\n- prompt: b", "the story")
    assert [scene.picture for scene in told.scenes] == ["2", "continue"]
    assert [scene.picture for scene in story_of("[2] a\n\nb", "the story").scenes] == ["2", "continue"]
    assert story_of("two scenes: a and b", "the story", "1").scenes == (
        StoryScene("two scenes: a and b", "1"),
    )
    with pytest.raises(UsageError, match="the story has more than 200,000 bytes; split the story"):
        story_of("waves " * 40_000, "the story", "1")


def test_names_of_pictures_may_have_spaces() -> None:
    assert StoryScene(picture="between  a b.png   and  c.png ").pictures == ("a b.png", "c.png")
    # In quadratic time, this would take most of a minute.
    many = "between a" + " " * 50_000
    assert StoryScene(picture=many).pictures == (many.strip(),)
    assert StoryScene(picture=many + "b").pictures == (many + "b",)


def test_a_story_in_yaml() -> None:
    told = story_of_yaml(
        "style: soft light\nsound: sea\nsteps: 3\nscenes:\n"
        "  - {picture: a.png, prompt: waves, motion: 0.3}\n"
        "  - {prompt: more waves, seconds: 3, sound: rain}\n"
        "  - {picture: between continue and b.png, transition: continue}\n",
        "sea.yaml",
    )
    assert told == Story(
        (
            StoryScene("waves", "a.png", settings={"motion": 0.3}),
            StoryScene("more waves", seconds=3, sound="rain"),
            StoryScene("", "between continue and b.png", transition="continue"),
        ),
        "soft light",
        "sea",
        settings={"steps": 3},
    )
    assert [scene.joint for scene in told.scenes] == ["cut", "continue", "continue"]
    assert told.scenes[2].pictures == ("continue", "b.png")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &x 1\nb: *x", r"not a story in YAML \(aliases are not allowed in line 2\); correct it"),
        ("a: 1\na: 2", r"not a story in YAML \('a' is there twice in line 1\); correct it"),
        ("a: !!python/object:os.system 1", r"not a story in YAML \(could not determine a constructor"),
        ("[" * 1_500, r"not a story in YAML \(it is nested too deeply\); correct it"),
        ("- 1", r"s\.yaml must contain scenes, such as 'scenes:"),
        ("scenes: []", r"scenes in s\.yaml must be a list of at least one scene; write each"),
        ("scenes: [1]", r"scene 1 of s\.yaml must have fields such as picture and prompt, but is 1"),
        (HEAD + "- {pikture: a}", r"unknown field 'pikture'; did you mean 'picture'\?"),
        (HEAD + "- {picture: a, width: 64}", r"unknown field 'width'; say it once for the whole story"),
        (HEAD + "- {picture: a, frames: 9}", r"scene 1 of s\.yaml has the unknown field 'frames'; "),
        (HEAD + "- {picture: 1.5}", r"picture in scene 1 of s\.yaml must be a string, not 1\.5"),
        (HEAD + "- {picture: a, transition: jump}", r"must be one of cut, cross-fade, continue, interpolate"),
        (HEAD + "- {picture: continue}", r"scene 1 has nothing to continue; name the picture"),
        (
            HEAD + "- {picture: a, transition: cross-fade}",
            r"scene 1 has transition cross-fade, but nothing is",
        ),
        (
            HEAD + "- {picture: a}\n- {transition: cut}",
            r"scene 2 has picture continue with transition cut; use",
        ),
        (
            HEAD + "- {picture: between a and continue}",
            r"scene 1 can begin with what is before it, but not end",
        ),
        (
            HEAD + "- {picture: a, seconds: 100}",
            r"scene 1 must take 0\.5 to 60 seconds, but 100 were given; split",
        ),
        (
            "fade: 0\nscenes: [{picture: a}]",
            r"fade must be more than 0 and at most 10 seconds, but 0 was given",
        ),
        ("original_every: -1\nscenes: [{picture: a}]", r"original_every must be 0 to 1,000 scenes, but -1"),
    ],
)
def test_what_is_wrong_with_a_story_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        story_of_yaml(text, "s.yaml")


def test_files_that_are_no_stories(own_place: Path) -> None:
    (own_place / "large.yaml").write_text("#" * 200_001, "utf-8")
    (own_place / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name, sentence in (
        ("gone.yaml", r"gone\.yaml cannot be read \(No such file or directory\); check its name"),
        ("a.png", r"a story is \.yaml, \.yml, \.txt, but a\.png was given; rename it"),
        ("large.yaml", r"large\.yaml has more than 200,000 bytes; split the story"),
        ("binary.txt", r"binary\.txt is not text in UTF-8 \(.*\); save it as such"),
    ):
        with pytest.raises(UsageError, match=sentence):
            read_story(Path(name))


def test_paragraphs_are_scenes() -> None:
    told = story_of_text("[a.png] The sea\nlies still.\n\nWaves rise.\n\n\n[b.png]\nA storm.")
    assert told.scenes == (
        StoryScene("The sea lies still.", "a.png"),
        StoryScene("Waves rise."),
        StoryScene("A storm.", "b.png"),
    )
    assert story_of_text("Waves.", "a.png").scenes == (StoryScene("Waves.", "a.png"),)
    with pytest.raises(
        UsageError, match=r"the text names no picture to begin with; begin its first paragraph"
    ):
        story_of_text("Waves.")
    with pytest.raises(UsageError, match=r"the text has no paragraphs; write what happens"):
        story_of_text(" \n\n ")


# What is generated


def planned(told: Story, target: str = "film.mp4", **choices: Any) -> FilmPlan:
    mute = choices.pop("mute", True)
    models = choices.pop("models", Models(TINY_FILES))
    return plan_film(told, Path, target, models, choices, mute=mute)


def test_pieces_of_a_story() -> None:
    told = Story(
        (
            StoryScene("one | two", "a.png", settings={"seed": 7}),
            StoryScene("goes on", seconds=3),
            StoryScene("and on", seconds=1, settings={"fs": 20}),
            StoryScene("a way", "b.png", transition="interpolate"),
            StoryScene("between", "between a.png and b.png", transition="cross-fade"),
        ),
        style="soft",
        original_every=2,
        settings={"motion": 0.2, "seed": 3},
    )
    plan = planned(told, steps=2)
    rows = [(one.name, one.settings.mode, one.joint, one.pictures) for one in plan.pieces]
    a, b = Path("a.png"), Path("b.png")
    assert rows == [
        ("01", "animate", "cut", (a,)),
        ("02", "animate", "shared", (None,)),
        ("03", "animate", "cross-fade", (a,)),
        ("04-bridge", "interpolate", "shared", (None, b)),
        ("04", "animate", "shared", (b,)),
        ("05", "interpolate", "cross-fade", (a, b)),
    ]
    chosen = [one.settings for one in plan.pieces]
    assert [one.prompt for one in chosen[:2]] == ["one, soft| two, soft", "goes on, soft"]
    assert [one.seed for one in chosen] == [7, 4, 5, 3, 3, 3]
    assert [(one.frames, one.length_method) for one in chosen[:3]] == [
        (16, "native"),
        (24, "continue"),
        (8, "pick"),
    ]
    assert chosen[2].fs == 20, "which replaces the motion of the story"
    assert {(one.steps, one.colour_match, one.lock_frames) for one in chosen} == {(2, 1.0, 4)}
    # 16 + 23 + 8 + 15 + 15 + 16 frames, of which 4 are faded twice.
    assert film_seconds(plan) == (16 + 23 + 8 + 15 + 15 + 16 - 4 - 4) / 8


def test_what_cannot_be_made_names_its_scene(own_place: Path) -> None:
    with pytest.raises(dynamicrafter.DynamiCrafterError, match=r"scene 2: .*gone\.png"):
        planned(Story((StoryScene("x", "a.png"), StoryScene("x", "gone.png"))))
    with pytest.raises(UsageError, match=r"scene 1: steps must be .*0"):
        planned(Story((StoryScene("x", "a.png", settings={"steps": 0}),)))
    with pytest.raises(ClipError, match=r"scene 1: there is no sound rain\.wav; check its name"):
        planned(Story((StoryScene("x", "a.png", sound="rain.wav"),)), mute=False)
    Path("still.wav").write_bytes(b"RIFF")
    with pytest.raises(ClipError, match=r"scene 1: .*still\.wav"):
        planned(Story((StoryScene("x", "a.png", sound="still.wav"),)), mute=False)
    for wrong, sentence in (
        ({"width": 128}, "the story has a width alone; give both width and height, or neither"),
        ({"fps": 0}, r"fps must be .*, but 0 was given"),
        ({"fps": "fast"}, r"fps must be .*, but 'fast' was given"),
        ({"fps": float("nan")}, r"fps must be .*, but nan was given"),
        ({"seed": "abc"}, r"scene 1: seed must be .*, but 'abc' was given"),
        ({"seed": True}, r"scene 1: seed must be .*, but True was given"),
    ):
        with pytest.raises(UsageError, match=sentence):
            planned(Story((StoryScene("x", "a.png"),), settings=wrong))
    with pytest.raises(
        UsageError, match=r"frames follows from the scenes of a story, but 8 was given; omit it"
    ):
        planned(Story((StoryScene("x", "a.png"),)), frames=8)
    shutil.copy("a.png", "a.webp")
    with pytest.raises(UsageError, match=r"a\.webp is an image of the story; choose another name"):
        planned(Story((StoryScene("x", "a.webp"),)), "a.webp")
    (own_place / "film-scenes").write_text("", "utf-8")
    with pytest.raises(ClipError, match=r"film-scenes could not be written \(File exists\); free some space"):
        make_film(planned(Story((StoryScene("x", "a.png"),))), Means("cpu"))


def test_a_model_that_does_not_interpolate_needs_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "variant_of", lambda files: VARIANTS["512_v1"] if files == TINY_FILES else TINY)
    told = Story((StoryScene("x", "between a.png and b.png"),))
    with pytest.raises(
        UsageError, match=r"interpolates between two images, which 512_v1 does not; pass between_model"
    ):
        planned(told)
    assert planned(told, models=Models(TINY_FILES, find_model("random"))).pieces[0].settings.width == 512


def test_lengths_of_clips() -> None:
    assert length_for("loop", 16, TINY) == (17, "windows")
    assert length_for("loop", 8, TINY) == (9, "native")
    assert length_for("loop", 40, VARIANTS["512_interp_v1"]) == (46, "continue")
    assert length_for("interpolate", 20, TINY) == (20, "native")
    assert length_for("animate", 1, TINY) == (2, "pick")


# Joining, with clips that are painted instead of generated


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Clips brighten by 8 levels a frame from their image; the names of those that were made."""
    names: list[str] = []

    def make(
        shots: Sequence[Any], files: Any, means: Means, progress: Any = None, *, callback: Any = None
    ) -> Iterator[Made]:
        model = KnownModel("tiny", "tiny", "float32", KnownFile(files.weights.name, ""))
        for shot in shots:
            if progress is not None:
                progress(shot.title, "sample", 0, 1)
            count = clip_length(shot.settings)
            first, last = (
                torch.as_tensor(np.array(Image.open(shot.pictures[end]).convert("RGB"))).int()
                for end in (0, -1)
            )
            steps = torch.arange(count)[:, None, None, None]
            frames = first + 8 * steps
            if shot.settings.mode == "interpolate":
                frames = first + (last - first) * steps // (count - 1)
            record = Record(shot.settings, know_pictures(shot.pictures), model)
            target = Path(shot.target)
            write_clip(frames.clamp(max=255).to(torch.uint8), f"{target}/", 8, to_json(record))
            names.append(target.name)
            yield Made(shot, 0.0)

    monkeypatch.setattr(film, "make", make)
    Image.new("RGB", (64, 64), (10, 20, 30)).save("a.png")
    Image.new("RGB", (64, 64), (90, 90, 90)).save("b.png")
    return names


FIVE = Story(
    (
        StoryScene("one", "a.png", seconds=0.5),
        StoryScene("two", seconds=0.5),
        StoryScene("three", "b.png", seconds=0.5, transition="cross-fade"),
        StoryScene("four", "a.png", seconds=0.5, transition="interpolate"),
        StoryScene("five", "b.png", seconds=0.5),
    ),
    fade=0.25,
    settings={"continue_from": 1},
)


def test_a_film_has_each_frame_once(painted: list[str]) -> None:
    made = make_film(planned(FIVE, "film"), Means("cpu"))
    levels = read_frames(made.path)[:, 0, 0, 0].tolist()
    assert painted == ["01", "02", "03", "04-bridge", "04", "05"]
    assert levels[:5] == [10, 18, 26, 34, 42], "the first scene and the beginning of what continues it"
    # Of the 3 frames of scene 2, no more than one is faded.
    assert len(levels) == 4 + (3 + 4 - 1) + 15 + 3 + 4 == made.frames
    assert levels[5] == 50
    assert 58 < levels[6] < 90, "faded"
    assert levels[7:10] == [98, 106, 114]
    assert levels[-8:-4] == [10, 18, 26, 34], "the picture of scene 4 is the last frame of the way to it"
    assert levels[-4:] == [90, 98, 106, 114], "after a cut"
    starts = [(one.start, one.seconds) for one in made.scenes]
    assert sum(seconds for _, seconds in starts) == len(levels) / 8
    with pytest.raises(
        ClipError, match=r"is a film of several scenes; generate it from its story, or choose one"
    ):
        read_record(made.path)
    assert starts[2] == (0.8125, 0.4375), "it begins in the middle of the fade"
    about = read_metadata(made.path)["film"]
    assert about[3] == {
        "prompt": "four",
        "pictures": ["a.png"],
        "transition": "interpolate",
        "start": 1.25,
        "seconds": 2.25,
        "sound": "",
        "clip": "04",
    }


def test_a_scene_continues_from_the_sharpest_of_its_last_frames(painted: list[str]) -> None:
    rough = np.zeros((64, 64, 3), np.uint8)
    rough[::2, ::2] = 200
    Image.fromarray(rough).save("a.png")
    # All frames of the painted clip are equally sharp until they are as bright as can be.
    told = Story((StoryScene("one", "a.png"), StoryScene("two")), settings={"continue_from": 3})
    made = make_film(planned(told, "film"), Means("cpu"))
    assert made.frames < 16 + 15
    end = made.frames - 15 - 1
    first = open_clip("film-scenes/01").frames(end, count=1)
    start = np.array(Image.open("film-scenes/02.png")).astype(int) - next(first).numpy()
    assert set(start.flatten().tolist()) <= {0, 1}
    assert start[:, :, 0].mean() == pytest.approx(0.5, abs=0.1), "the half level that truncation took"


def test_only_what_has_changed_is_generated_again(painted: list[str]) -> None:
    make_film(planned(FIVE, "film"), Means("cpu"))
    painted.clear()
    assert all(not one.generated for one in make_film(planned(FIVE, "film"), Means("cpu")).scenes)
    assert painted == []
    first = Story(
        (StoryScene("other", "a.png", seconds=0.5), *FIVE.scenes[1:]), fade=0.25, settings=FIVE.settings
    )
    made = make_film(planned(first, "film"), Means("cpu"))
    assert painted == ["01", "02"]
    assert [one.generated for one in made.scenes] == [True, True, False, False, False]
    painted.clear()
    Image.new("RGB", (64, 64), (11, 20, 30)).save("a.png")
    make_film(planned(first, "film"), Means("cpu"))
    assert painted == ["01", "02", "04-bridge", "04"]
    painted.clear()
    make_film(planned(first, "film", steps=3), Means("cpu"))
    assert painted == ["01", "02", "03", "04-bridge", "04", "05"]


def test_the_page_looks_for_finished_clips_once(painted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    find = FilmPlan.finished

    def finished(self: FilmPlan) -> set[int]:
        looked.append(self.target)
        return find(self)

    monkeypatch.setattr(FilmPlan, "finished", finished)
    FilmTask("film", planned(FIVE, "clip.mp4")).run(Means("cpu"), lambda *_: None, None)
    assert painted == ["01", "02", "03", "04-bridge", "04", "05"]
    assert [path.name for path in looked] == ["clip.mp4"]
    assert {len(read_frames(f"clip.{kind}")) for kind in ("mp4", "gif", "webp")} == {4 + 6 + 15 + 3 + 4}


def test_a_run_that_was_stopped_resumes_at_its_scene(painted: list[str]) -> None:
    def stop(title: str, *_: object) -> None:
        if title == "scene 3 of 5":
            raise Cancelled

    with pytest.raises(Cancelled):
        make_film(planned(FIVE, "film"), Means("cpu"), progress=stop)
    assert painted == ["01", "02"]
    assert not Path("film").exists()
    make_film(planned(FIVE, "film"), Means("cpu"))
    assert painted == ["01", "02", "03", "04-bridge", "04", "05"]


def test_models_are_loaded_seldom(painted: list[str]) -> None:
    rounds: list[str] = []
    make = film.make

    def counted(shots: Any, files: Any, *others: Any, **more: Any) -> Any:
        rounds.append(files.asked)
        return make(shots, files, *others, **more)

    film.make = counted
    try:
        make_film(planned(FIVE, "film", models=Models(TINY_FILES, find_model("random"))), Means("cpu"))
    finally:
        film.make = make
    assert rounds == ["tiny", "random"]
    assert painted == ["01", "02", "03", "04", "05", "04-bridge"]


def test_sixty_scenes(painted: list[str]) -> None:
    scenes = (StoryScene("0", "a.png", 0.5), *(StoryScene(str(index), seconds=0.5) for index in range(1, 60)))
    told = Story(scenes, original_every=10, settings={"continue_from": 1})
    made = make_film(planned(told, "film.mp4"), Means("cpu"))
    # Of 3 frames, no more than one is faded.
    faded = 5
    assert made.frames == 4 + 3 * (59 - faded) + faded * (4 - 1)
    assert open_clip(made.path).count == made.frames
    assert len(made.scenes) == 60
    starts = [scene.start for scene in made.scenes]
    assert starts == sorted(set(starts))


# Sound


def test_sound_changes_where_scenes_meet() -> None:
    sound = film_sound([("sea", 1.0), ("sea", 0.5), (None, 1.0), ("rain", 1.5)], 0)
    assert sound is not None
    samples = sound.samples
    assert samples.shape == (2, 4 * sound.rate)
    assert loudness(samples) == pytest.approx(-16, abs=0.3)
    assert true_peak(samples) <= -1
    assert np.abs(samples[:, int(1.7 * 48_000) : int(2.3 * 48_000)]).max() == 0, "silence"
    assert np.abs(samples[:, int(1.4 * 48_000) : int(1.5 * 48_000)]).max() > 0.01, "until the border"
    assert film_sound([(None, 2.0)], 0) is None


def test_sounds_of_scenes(painted: list[str]) -> None:
    told = Story(
        (
            StoryScene("waves at the beach", "a.png"),
            StoryScene("on", sound="rain"),
            StoryScene("on", sound="a spaceship"),
            StoryScene("on", sound="none"),
        ),
        sound=None,
    )
    plan = planned(told, mute=False)
    assert plan.sources == ("sea", "rain", None, None)
    assert plan.notes == ("scene 3 has no sound, because none fits 'a spaceship'",)
    made = make_film(plan, Means("cpu"))
    heard = read_sound(made.path, 0, 10)
    assert heard is not None and made.has_sound
    assert heard.samples.shape[1] / heard.rate == pytest.approx(made.frames / made.fps, abs=0.05)
    assert [scene.sound for scene in made.scenes] == ["sea", "rain", "", ""]
    assert "film has no sound, because .gif has none" in planned(told, "film.gif", mute=False).notes[0]
    # That of the story is for scenes that name none.
    plan = planned(Story(told.scenes, sound="wind"), mute=False)
    assert plan.sources == ("wind", "rain", None, None)


# The model itself, the command and the function


def told_by(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert main([*words, "--device", "cpu", "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_command_makes_a_film(capsys: pytest.CaptureFixture[str], own_place: Path) -> None:
    (own_place / "tale.txt").write_text(
        "[a.png] a red circle moves right\n\na red circle moves left", "utf-8"
    )
    words = ("story", "tale.txt", "--steps", "2", "--motion", "0.5")
    dry = told_by(capsys, *words, "--dry-run")
    assert [(row["clip"], row["done"]) for row in dry["scenes"]] == [("01", False), ("02", False)]
    assert (dry["seconds"], dry["questions"]) == (31 / 8, 0)
    assert dry["plans"][0]["activations_bytes"] > 0
    assert not (own_place / "tale-scenes").exists()
    result = told_by(capsys, *words)
    assert result["output"] == str(own_place / "tale.mp4")
    assert [scene["generated"] for scene in result["scenes"]] == [True, True]
    assert result["sound"] is False, "no words of a sound"
    record = read_record(own_place / "tale-scenes" / "02")
    assert (record.settings.seed, record.settings.steps, record.pictures[0].file) == (124, 2, "02.png")
    frames = read_frames(own_place / "tale.mp4")
    steps = (frames[1:].float() - frames[:-1].float()).abs().flatten(1).mean(1)
    joint = round(result["scenes"][1]["start"] * 8)
    assert 0.2 < float(steps[joint - 1] / steps.median()) <= 2
    # The clip of a scene can be generated again by itself.
    again = told_by(capsys, "again", "tale-scenes/02", "-o", "again")
    assert torch.equal(read_frames("again"), read_frames("tale-scenes/02"))
    assert again["clips"][0]["settings"]["prompt"] == "a red circle moves left"
    # In another run nothing is left to do, and the text says what is there.
    assert main([*words, "--device", "cpu", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "01 (cut, 2 s, is there): a red circle moves right" in shown
    assert "tale.mp4: 2 scene(s), at most 3.9 s" in shown


def test_the_function_takes_a_story(painted: list[str], own_place: Path) -> None:
    told = Story((StoryScene("waves", "a.png"), StoryScene("rain", sound="rain")), style="soft")
    made = dynamicrafter.story(told, "film.webm", device="cpu", steps=2)
    assert made.has_sound and made.path == own_place / "film.webm"
    assert not dynamicrafter.story(told, "film.webm", device="cpu", steps=2, mute=True).has_sound
    with pytest.raises(UsageError, match=r"scene 1: there is no setting 'stepz'; did you mean 'steps'"):
        dynamicrafter.story(told, "film.webm", device="cpu", stepz=2)


def test_wrong_words(capsys: pytest.CaptureFixture[str], own_place: Path) -> None:
    (own_place / "s.yaml").write_text("scenes: [{picture: a.png}]", "utf-8")
    assert (
        "--picture is for plain text" in told_by(capsys, "story", "s.yaml", "--picture", "a", code=2)["error"]
    )
    assert (
        "--llm splits plain text, but s.yaml"
        in told_by(capsys, "story", "s.yaml", "--llm", "x", code=2)["error"]
    )


# A language model splits a text


SPLIT = {
    "scenes": [
        {"prompt": "the sea lies still", "seconds": 3, "sound": "calm sea", "picture": 0},
        {"prompt": "waves | rise\x1b\n", "seconds": 900, "sound": "../../etc/x.wav", "picture": 7},
        {"prompt": "a storm", "seconds": None, "sound": "", "picture": 2},
    ]
}


def test_an_answer_names_no_files() -> None:
    told = read_split(f"Of course: {json.dumps(SPLIT)}", ["a.png", "b.png"])
    assert told.scenes == (
        StoryScene("the sea lies still", "a.png", 3.0, sound="calm sea"),
        StoryScene("waves , rise", "continue", 60.0, sound="etc x wav"),
        StoryScene("a storm", "b.png", None, sound="none"),
    )
    for answer, reason in (
        ("no", "scenes: a list"),
        ('{"scenes": []}', "scenes: a list"),
        ('{"scenes": [{"prompt": " "}]}', "scene 1: prompt: it must say"),
        ('{"scenes": [3]}', "scene 1: an object is needed"),
        ('{"scenes": [{"prompt": "x", "sound": 1}]}', "scene 1: sound: a string"),
    ):
        with pytest.raises(PlanError, match=reason):
            read_split(answer, ["a.png"])


def test_a_text_is_split_once(
    painted: list[str], capsys: pytest.CaptureFixture[str], own_place: Path
) -> None:
    (own_place / "tale.txt").write_text("[a.png] The sea.\n\n[b.png] A storm.", "utf-8")
    words = ("story", "tale.txt", "--llm", "local", "--mute")
    with LanguageModelServer(good(json.dumps(SPLIT))) as server:
        write_profile(Profile("local", server.url, "any"))
        dry = told_by(capsys, *words, "--dry-run")
        assert (dry["questions"], len(dry["scenes"]), len(server.requests)) == (2, 2, 0)
        result = told_by(capsys, *words)
        assert len(server.requests) == 1
        sent = server.requests[0]["messages"][1]["content"]
        assert sent == "[picture 1] The sea.\n\n[picture 2] A storm."
        assert len(result["scenes"]) == 3
        again = told_by(capsys, *words)
        assert len(server.requests) == 1, "what it answered is remembered"
        assert [scene["generated"] for scene in again["scenes"]] == [False] * 3
        assert told_by(capsys, *words, "--dry-run")["questions"] == 0


def test_a_server_that_fails_leaves_the_paragraphs(
    painted: list[str], capsys: pytest.CaptureFixture[str], own_place: Path
) -> None:
    (own_place / "tale.txt").write_text("[a.png] The sea.\n\nA storm.", "utf-8")
    with LanguageModelServer(refusal(500, "boom")) as server:
        write_profile(Profile("local", server.url, "any"))
        result = told_by(capsys, "story", "tale.txt", "--llm", "local", "--mute")
    assert len(result["scenes"]) == 2
    assert result["notes"][0].endswith("the scenes are the paragraphs")
