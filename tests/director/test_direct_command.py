"""The commands direct and language-model, with the built-in model and a local server."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from language_model import PLAN, LanguageModelServer, good, refusal

from dynamicrafter.cli import main
from dynamicrafter.director import chat
from dynamicrafter.director.loudness import loudness
from dynamicrafter.director.profiles import VARIABLE, Profile, read_profiles, write_profile
from dynamicrafter.media.video import read_sound

PICTURE = Path(__file__).resolve().parents[2] / "pictures" / "red_circle.png"
QUICK = ["--steps", "1", "--frames", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the picture, and no profiles."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "settings" / "models.toml"))
    monkeypatch.setattr(chat, "_PAUSE", 0.001)
    monkeypatch.chdir(tmp_path)
    shutil.copy(PICTURE, "circle.png")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


class Terminal(io.StringIO):
    """A person who types these lines."""

    def isatty(self) -> bool:
        return True


def test_the_built_in_model_needs_no_language_model(
    capsys: pytest.CaptureFixture[str], own_place: Path
) -> None:
    result = told(capsys, "direct", "circle.png", *QUICK)
    assert result["plan"]["motion_prompt"] == "a red circle moves right"
    settings = result["clips"][0]["settings"]
    assert settings["prompt"] == "a red circle moves right"
    assert (own_place / "circle-animate.mp4").is_file()


def test_a_language_model_proposes_and_arguments_have_precedence(capsys: pytest.CaptureFixture[str]) -> None:
    proposal = {**PLAN, "motion_prompt": "a red circle sinks", "camera": "zoom in", "negative_prompt": "blur"}
    with LanguageModelServer(good(json.dumps(proposal))) as server:
        write_profile(Profile("local", server.url, "any"))
        result = told(
            capsys, "direct", "circle.png", "--llm", "local", "--idea", "sink", "--fs", "30", *QUICK
        )
    settings = result["clips"][0]["settings"]
    assert settings["prompt"] == "a red circle sinks, camera zooms in"
    assert (settings["negative"], settings["fs"]) == ("blur", 30)
    assert "sink" in json.dumps(server.requests[0]["messages"])


@pytest.mark.parametrize(
    ("mode", "seconds", "sound", "words", "length"),
    [
        ("animate", 3.0, "rain", (), (24, "continue")),
        ("animate", 1.0, "a spaceship", (), (8, "pick")),
        ("loop", 3.0, "rain", ("--mute",), (25, "windows")),
        ("interpolate", 1.0, "rain", ("--mute",), (8, "pick")),
    ],
)
def test_a_clip_has_the_duration_and_the_sound_of_the_plan(
    capsys: pytest.CaptureFixture[str],
    mode: str,
    seconds: float,
    sound: str,
    words: tuple[str, ...],
    length: tuple[int, str],
) -> None:
    proposal = {**PLAN, "motion_prompt": "a | b", "mode": mode, "seconds": seconds, "sound": sound}
    with LanguageModelServer(good(json.dumps(proposal))) as server:
        write_profile(Profile("local", server.url, "any"))
        result = told(
            capsys, "direct", "circle.png", "--llm", "local", "--steps", "1", "--device", "cpu", *words
        )
    (made,) = result["clips"]
    settings = made["settings"]
    assert (settings["frames"], settings["length_method"]) == length
    assert settings["prompt"] == "a , b", "one prompt, whatever it contains"
    assert made["frames"] / made["fps"] == seconds
    heard = read_sound(made["output"], 0, 10)
    assert (heard is not None) == (sound == "rain" and not words)
    if heard is not None:
        assert heard.samples.shape[1] / heard.rate == pytest.approx(seconds, abs=0.05)
        assert loudness(heard.samples) == pytest.approx(-16, abs=1)
    missing = f"the clip has no sound, because none fits {sound!r}"
    assert (missing in result["notes"]) == (sound == "a spaceship")
    other = "the clip is not made as the plan's mode interpolate, which needs two images"
    assert (other in result["notes"]) == (mode == "interpolate")


def test_a_server_that_fails_is_replaced_by_suggestions_with_a_note(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with LanguageModelServer(refusal(500, "boom")) as server:
        write_profile(Profile("local", server.url, "any"))
        result = told(capsys, "direct", "circle.png", "--llm", "local", "--dry-run")
    assert result["plans"][0]["motion_prompt"] == "a red circle moves right"
    assert "failed 4 times (HTTP 500: boom)" in result["notes"][0]
    assert result["notes"][0].endswith("these are suggestions made without it")


def test_a_person_changes_the_plan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("2\nmotion = much\nspeed=1\nmotion=0.1\ncamera=tilt up\n\n"))
    assert main(["direct", "circle.png", *QUICK, "-q"]) == 0
    shown = capsys.readouterr().out
    assert "motion: a number is needed" in shown
    assert "the fields are subject, motion_prompt" in shown
    assert "a red circle moves up, camera tilts up" in shown
    assert "motion: 0.1" in shown


def test_a_person_leaves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, own_place: Path
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("q\n"))
    assert main(["direct", "circle.png", *QUICK]) == 130
    assert not list(own_place.glob("*.mp4"))


def test_a_host_is_agreed_to_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profile(Profile("cloud", "https://model.invalid/v1", "any"))
    result = told(capsys, "direct", "circle.png", "--llm", "cloud", "--dry-run", code=2)
    assert "would send the picture to model.invalid, to which nobody has agreed" in result["error"]
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert main(["direct", "circle.png", "--llm", "cloud", "--dry-run"]) == 2
    assert not read_profiles()["cloud"].pictures
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main(["direct", "circle.png", "--llm", "cloud", "--dry-run"]) == 0
    assert read_profiles()["cloud"].pictures
    assert "The picture will be sent to model.invalid" in capsys.readouterr().err


def test_what_cannot_be_suggested_is_one_sentence(
    capsys: pytest.CaptureFixture[str], own_place: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), (120, 120, 120)).save(own_place / "grey.png")
    result = told(capsys, "direct", "grey.png", code=2)
    assert "knows coloured shapes only, and the image shows none; choose another model" in result["error"]
    assert "standard input is not; save it to a file" in told(capsys, "direct", "-", code=2)["error"]
    assert (
        "there is no profile gone of a language model"
        in told(capsys, "direct", "grey.png", "--llm", "gone", code=2)["error"]
    )


def test_profiles_are_added_listed_and_removed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-secret\n"))
    added = told(capsys, "language-model", "add", "cloud", "--url", "https://a.example/v1", "--name", "m")
    assert read_profiles()["cloud"].key == "sk-secret"
    assert "sk-secret" not in json.dumps(added)
    assert added["profiles"] == [
        {"name": "cloud", "url": "https://a.example/v1", "model": "m", "key": "yes", "pictures": False}
    ]
    told(capsys, "language-model", "agree", "cloud")
    assert read_profiles()["cloud"].pictures
    url = ["--url", "http://localhost:1/v1", "--name", "m", "--no-key"]
    told(capsys, "language-model", "add", "local", *url)
    assert main(["language-model", "list"]) == 0
    shown = capsys.readouterr().out
    assert "name: local" in shown
    assert "sk-secret" not in shown
    told(capsys, "language-model", "remove", "cloud")
    assert list(read_profiles()) == ["local"]
    error = told(
        capsys,
        "language-model",
        "add",
        "x",
        "--url",
        "http://a.example",
        "--name",
        "m",
        "--key-variable",
        "K",
        code=2,
    )
    assert "would send its key to a.example unencrypted" in error["error"]
