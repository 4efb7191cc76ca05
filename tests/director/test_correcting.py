"""The policy that corrects clips, with a generator that stands in for a model, and with the built-in one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from language_model import LanguageModelServer, good, refusal
from torch import Tensor

from dynamicrafter.cli import main
from dynamicrafter.director import chat, rounds
from dynamicrafter.director.advising import advisor, contact_sheet, read_advice
from dynamicrafter.director.correcting import (
    Aim,
    Attempt,
    Fault,
    Lever,
    advise_by_rules,
    aim_of,
    best_of,
    correct,
    measure_subjects,
    score_of,
    shortfalls,
    way_of,
)
from dynamicrafter.director.plan import PlanError
from dynamicrafter.director.profiles import VARIABLE, Profile
from dynamicrafter.errors import UsageError
from dynamicrafter.evaluation.figures import (
    CLIPPED,
    DELTA_E,
    ENLARGED,
    EXPLAINED,
    FIRST_SSIM,
    FLICKER,
    FLOW,
    FLOW_DOWN,
    FLOW_LEFT,
    FLOW_RIGHT,
    FLOW_UP,
    MOVING,
    SHARPNESS,
    WARPING,
    WAY,
)
from dynamicrafter.media.video import read_frames, read_metadata
from dynamicrafter.model.variants import TINY, V256
from dynamicrafter.settings import Settings, make_settings

PICTURE = Path(__file__).resolve().parents[2] / "pictures" / "red_circle.png"
GOOD = {
    WAY.name: 0.25, FLOW_LEFT.name: 0.0, FLOW_RIGHT.name: 0.95, FLOW_UP.name: 0.05, FLOW_DOWN.name: 0.0,
    ENLARGED.name: 1.0,
    FIRST_SSIM.name: 0.98, WARPING.name: 0.7, EXPLAINED.name: 0.6, FLICKER.name: 0.2, FLOW.name: 0.3,
    MOVING.name: 0.2, DELTA_E.name: 1.0, CLIPPED.name: 0.0, SHARPNESS.name: 0.8,
}  # fmt: skip
AIM = aim_of("a red circle moves right", (0.2, 0.3))
FRAMES = torch.zeros(5, 16, 16, 3, dtype=torch.uint8)


def settings(**choices: Any) -> Settings:
    values: dict[str, Any] = {"prompt": AIM.prompt, **choices}
    return make_settings(TINY, "animate", **values)


def seen(chosen: Settings) -> Mapping[str, float]:
    """What a model makes of its settings: its way is inverse to fs, guidance above 6 makes noise."""
    figures = dict(GOOD)
    figures[WAY.name] = min(0.4, 2.5 / chosen.fs)
    if "left" in chosen.prompt:
        figures |= {FLOW_LEFT.name: 0.95, FLOW_RIGHT.name: 0.0}
    if chosen.cfg > 6:
        figures |= {WARPING.name: chosen.cfg, EXPLAINED.name: 0.1, FLICKER.name: chosen.cfg / 4}
    if chosen.seed == 13:
        figures |= {FLOW_UP.name: 0.95, FLOW_RIGHT.name: 0.0}
    return figures


def attempts(chosen: Settings, aim: Aim = AIM, **options: Any) -> list[Attempt]:
    return list(correct(lambda _: FRAMES, lambda _, made: seen(made), chosen, aim, TINY, **options))


def levers(found: Sequence[Attempt]) -> list[Lever]:
    return [one.change.lever for one in found if one.change is not None]


@pytest.mark.parametrize(
    ("spoilt", "expected"),
    [
        ({}, []),
        ({"prompt": "a red circle moves left"}, ["prompt"]),
        ({"fs": 30}, ["motion"]),
        ({"fs": 500}, ["motion", "motion"]),
        ({"cfg": 30.0}, ["cfg"]),
        ({"seed": 13}, ["seed"]),
        ({"steps": 2}, ["steps"]),
    ],
)
def test_each_fault_is_corrected_by_its_lever(spoilt: dict[str, Any], expected: list[Lever]) -> None:
    found = attempts(settings(fs=10) if not spoilt else settings(**{"fs": 10, **spoilt}))
    assert levers(found) == expected
    assert best_of(found).score > 95
    for attempt, change in [(one, one.change) for one in found if one.change is not None]:
        before = best_of(found[: found.index(attempt)]).settings
        changed = [name for name, value in vars(before).items() if getattr(change.settings, name) != value]
        assert changed == ["fs" if change.lever == "motion" else change.lever]


def test_motion_is_corrected_in_proportion_and_within_the_range() -> None:
    (_, second) = attempts(settings(fs=20))
    assert second.settings.fs == round(20 * (2.5 / 20) / math.sqrt(0.2 * 0.3))
    wild = Attempt(settings(fs=5), FRAMES, {**GOOD, WAY.name: 0.5}, {"wild": 1.0}, 70, None, True)
    change = advise_by_rules(AIM, V256, [replace(wild, settings=replace(wild.settings, fs=4))])
    assert change is not None and change.settings.fs == 2
    still = advise_by_rules(
        AIM, V256, [replace(wild, settings=replace(wild.settings, fs=4), short={"still": 1.0})]
    )
    assert still is not None and still.lever == "motion"


def test_the_best_is_kept_and_it_ends_without_gain() -> None:
    asked: list[Settings] = []

    def measure(_: Tensor, made: Settings) -> Mapping[str, float]:
        asked.append(made)
        return {**GOOD, FLOW_RIGHT.name: 0.1, FLOW_UP.name: 0.85}

    found = list(correct(lambda _: FRAMES, measure, settings(), AIM, TINY))
    assert len(found) == 3
    assert [one.best for one in found] == [True, False, False]
    assert best_of(found).settings == settings()
    assert len(set(asked)) == 3


def lost(*fixed: Lever, spoilt_from: float = math.inf) -> list[Attempt]:
    """Corrections of a clip that loses both of its subjects, unsteady from a guidance scale on."""
    aim = replace(aim_of("red car drives right and blue car drives left"), fixed=frozenset(fixed))
    clip = torch.zeros(5, 16, 16, 3, dtype=torch.uint8)
    clip[0, :4, :4] = torch.tensor([30, 60, 220], dtype=torch.uint8)
    flow = {**GOOD, FLOW_LEFT.name: 0.4, FLOW_RIGHT.name: 0.6}

    def measure(_: Tensor, chosen: Settings) -> Mapping[str, float]:
        return {**flow, FLICKER.name: 9.0 if chosen.cfg >= spoilt_from else 0.0}

    chosen = settings(prompt=aim.prompt, seed=5, cfg=1.0)
    return list(correct(lambda _: clip, measure, chosen, aim, TINY))


def test_more_guidance_and_then_another_seed_are_to_bring_a_lost_subject_back() -> None:
    found = lost()
    assert levers(found) == ["cfg", "seed"]
    assert [(one.settings.cfg, one.settings.seed) for one in found] == [(1, 5), (3, 5), (3, 6)]
    assert [one.change.why.endswith(", with what was changed before") for one in found if one.change] == [
        False,
        True,
    ]


def test_guidance_that_made_the_clip_worse_is_given_up() -> None:
    assert [(one.settings.cfg, one.settings.seed) for one in lost(spoilt_from=2)] == [(1, 5), (3, 5), (1, 6)]


def test_another_seed_is_tried_twice_if_a_subject_is_lost() -> None:
    assert [(one.settings.cfg, one.settings.seed) for one in lost("cfg")] == [(1, 5), (1, 6), (1, 7)]


def test_few_steps_that_a_person_chose_cost_nothing() -> None:
    chosen = settings(steps=2)
    assert shortfalls(GOOD, AIM, chosen)["hasty"] == 0.75
    assert "hasty" not in shortfalls(GOOD, replace(AIM, fixed=frozenset[Lever]({"steps"})), chosen)


def test_rounds_are_counted_and_limited() -> None:
    worst = settings(cfg=20.0, fs=500, prompt="a red circle moves left")
    assert len(attempts(worst, rounds=3)) == 4
    assert len(attempts(worst, rounds=1)) == 2
    assert len(attempts(settings(cfg=90.0), rounds=0)) == 1
    with pytest.raises(
        UsageError, match="rounds must be 0 to 3, but 4 was given; more corrections rarely help"
    ):
        attempts(settings(), rounds=4)


def test_what_a_person_chose_stays() -> None:
    fixed: frozenset[Lever] = frozenset({"motion", "cfg"})
    found = attempts(settings(fs=30, cfg=30.0), replace(AIM, fixed=fixed))
    assert "motion" not in levers(found) and "cfg" not in levers(found)


def test_an_error_in_a_round_ends_it_after_what_is_finished() -> None:
    def make(chosen: Settings) -> Tensor:
        if chosen.fs != 30:
            raise KeyboardInterrupt
        return FRAMES

    found: list[Attempt] = []
    with pytest.raises(KeyboardInterrupt):
        for one in correct(make, lambda _, made: seen(made), settings(fs=30), AIM, TINY):
            found.append(one)
    assert len(found) == 1 and found[0].best


@pytest.mark.parametrize(
    ("prompt", "directions", "growth", "still"),
    [
        ("a red circle slides to the left", {"left"}, 0, False),
        ("A boat drifts slowly to the right", {"right"}, 0, False),
        ("smoke rises", {"up"}, 0, False),
        ("a red circle moves up and a blue square sinks", {"up", "down"}, 0, False),
        ("a street, camera pans right", {"left"}, 0, False),
        ("a street, camera zooms in", set[str](), 1, False),
        ("green triangle gets smaller", set[str](), -1, False),
        ("a black cross stays still", set[str](), 0, True),
        ("a bright light on the right", set[str](), 0, False),
        ("waves roll in", set[str](), 0, False),
    ],
)
def test_the_aim_is_what_the_words_say(prompt: str, directions: set[str], growth: int, still: bool) -> None:
    aim = aim_of(prompt, way_of(0.5))
    assert (aim.directions, aim.growth, aim.still) == (directions, growth, still)
    assert (aim.way is None) == still


@pytest.mark.parametrize(
    ("prompt", "subjects"),
    [
        ("a red circle moves up and a blue square sinks", (("red", "up"), ("blue", "down"))),
        (
            "the violet boat drifts left while a gray one drives right",
            (("purple", "left"), ("grey", "right")),
        ),
        ("a red circle moves up", ()),
        ("a red circle moves up and a red square sinks", ()),
        ("a red circle moves up and a square sinks", ()),
        ("a red and white boat moves left, a blue one moves right", (("white", "left"), ("blue", "right"))),
        ("a red car drives left, a blue car drives right and a dog runs up", ()),
        ("the camera pans right past a red barn and a blue bird rises", ()),
        ("an orange car drives right and a red car drives right, then drives up", ()),
    ],
)
def test_subjects_are_told_apart_by_their_colours(prompt: str, subjects: tuple[tuple[str, str], ...]) -> None:
    assert aim_of(prompt).subjects == subjects


def test_subjects_that_swap_their_directions_fall_short() -> None:
    """Which the flow of the whole clip does not show."""
    clip = torch.zeros(5, 3, 32, 48)
    for frame in range(5):
        clip[frame, :, 4:12, 4 + 4 * frame : 12 + 4 * frame] = torch.tensor([0.8, -0.9, -0.9])[:, None, None]
        clip[frame, :, 22:30, 36 - 4 * frame : 44 - 4 * frame] = torch.tensor([-0.8, -0.6, 0.9])[
            :, None, None
        ]
    frames = ((clip + 1) * 127.5).round().byte().movedim(1, -1)
    flow = {WAY.name: 0.3, FLOW_LEFT.name: 0.5, FLOW_RIGHT.name: 0.5}
    for prompt, wrong in (
        ("red car drives right and blue car drives left", 0.0),
        ("red car drives left and blue car drives right", 1.0),
        ("red car drives right, blue car rises", 1.0),
    ):
        aim = aim_of(prompt)
        figures = {**flow, FLOW_UP.name: 0.5, **measure_subjects(frames, aim)}
        assert shortfalls(figures, aim, settings())["direction"] == wrong
    assert measure_subjects(frames, AIM) == {}


@pytest.mark.parametrize(
    ("fault", "aim", "changed"),
    [
        ("direction", AIM, {FLOW_RIGHT.name: 0.1, FLOW_UP.name: 0.9}),
        ("direction", aim_of("a moves right and b moves up"), {FLOW_RIGHT.name: 1.0, FLOW_UP.name: 0.0}),
        ("size", aim_of("it grows"), {ENLARGED.name: 0.8}),
        ("restless", aim_of("it stands still"), {}),
        ("still", AIM, {WAY.name: 0.05}),
        ("still", aim_of("it moves left"), {WAY.name: 0.0}),
        ("wild", AIM, {WAY.name: 0.9}),
        ("unsteady", AIM, {WARPING.name: 8.0, EXPLAINED.name: 0.1}),
        ("unsteady", AIM, {FLICKER.name: 5.0}),
        ("unfaithful", AIM, {FIRST_SSIM.name: 0.5}),
        ("saturated", AIM, {CLIPPED.name: 0.2}),
        ("blurred", AIM, {SHARPNESS.name: 0.1}),
        ("drifting", AIM, {DELTA_E.name: 30.0}),
    ],
)
def test_what_falls_short_is_named_and_costs_points(
    fault: Fault, aim: Aim, changed: dict[str, float]
) -> None:
    chosen = settings()
    short = shortfalls({**GOOD, **changed}, aim, chosen)
    assert short[fault] > 0.5
    assert score_of(short) < 96
    assert sum(shortfalls(GOOD, AIM, chosen).values()) == 0


def test_metrics_that_are_missing_are_not_judged() -> None:
    assert not any(shortfalls({}, aim_of("a cat"), settings()).values())


def advice(**fields: Any) -> str:
    return json.dumps({"change": "none", "prompt": "", "number": 0, "why": "so", **fields})


FIRST = [Attempt(settings(fs=20), FRAMES, GOOD, {"still": 0.5}, 85, None, True)]


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"change": "prompt", "prompt": "a red circle slides right"}, "prompt", "a red circle slides right"),
        ({"change": "motion", "number": 7}, "fs", TINY.preset.fs_lively),
        ({"change": "cfg", "number": 99}, "cfg", 10.0),
        ({"change": "image_cfg", "number": -3}, "image_cfg", 1.0),
        ({"change": "seed"}, "seed", FIRST[0].settings.seed + 1),
    ],
)
def test_advice_is_one_change_within_limits(fields: dict[str, Any], name: str, value: object) -> None:
    change = read_advice(f"Sure: ```{advice(**fields)}```", AIM, TINY, FIRST)
    assert change is not None and change.settings == replace(FIRST[0].settings, **{name: value})


def test_advice_of_another_seed_never_repeats_one() -> None:
    again = [
        *FIRST,
        replace(FIRST[0], settings=replace(FIRST[0].settings, seed=FIRST[0].settings.seed + 1), best=False),
    ]
    change = read_advice(advice(change="seed"), AIM, TINY, again)
    assert change is not None and change.settings.seed == FIRST[0].settings.seed + 2


def test_a_prompt_is_one_line_for_the_whole_clip() -> None:
    change = read_advice(
        advice(change="prompt", prompt="up \x1b[31m| 99: and\ndown \ud800"), AIM, TINY, FIRST
    )
    assert change is not None and change.settings.prompt == "up [31m, 99: and down"


def test_advice_that_the_settings_do_not_allow_is_rejected() -> None:
    (first,) = FIRST
    (guided,) = (replace(first, settings=replace(first.settings, apg_eta=0.5)),)
    with pytest.raises(PlanError, match="work on guidance with one scale, but image_cfg adds a second"):
        read_advice(advice(change="image_cfg", number=3), AIM, TINY, [guided])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("no idea", "it contains no JSON object with a change"),
        (advice(change="output"), "'output' is nothing to change"),
        (advice(change="cfg"), "'cfg' is nothing to change"),
        (advice(change="prompt"), "the new prompt is missing"),
        (advice(change="motion", number="fast"), "the new value is not a number"),
        (advice(change="prompt", prompt=AIM.prompt), "this value of prompt was tried before"),
    ],
)
def test_other_advice_is_rejected(answer: str, reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        read_advice(answer, replace(AIM, fixed=frozenset({"cfg"})), TINY, FIRST)


def test_a_language_model_sees_numbers_and_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_PAUSE", 0.001)
    notes: list[str] = []
    replies = [
        good(advice(change="motion", number=1)),
        refusal(500),
        refusal(500),
        refusal(500),
        refusal(500),
    ]
    with LanguageModelServer(*replies) as server:
        advise = advisor(Profile("local", server.url, "any"), notes.append)
        first = advise(AIM, TINY, FIRST)
        assert first is not None and first.settings.fs == 8 and not notes
        fallback = advise(AIM, TINY, FIRST)
    assert fallback == advise_by_rules(AIM, TINY, FIRST)
    assert notes[0].endswith("the rules are used instead")
    told, sheet = server.requests[0]["messages"][1]["content"]
    assert json.loads(told["text"])["metrics"][WAY.name] == 0.25
    assert sheet["image_url"]["url"].startswith("data:image/jpeg;base64,")
    with pytest.raises(UsageError, match="would send the picture to model.invalid"):
        advisor(Profile("cloud", "https://model.invalid/v1", "any"), notes.append)


def test_a_contact_sheet_shows_frames_from_first_to_last() -> None:
    frames = torch.arange(9, dtype=torch.uint8)[:, None, None, None].expand(9, 64, 32, 3)
    sheet = contact_sheet(frames)
    assert sheet.shape == (192, 5 * 96, 3)
    assert sheet[0, ::96, 0].tolist() == [0, 2, 4, 6, 8]


@pytest.fixture
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the picture, and no profiles."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "settings" / "models.toml"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(PICTURE, "circle.png")
    return tmp_path


DIRECT = ["direct", "circle.png", "--rounds", "1", "--size", "64x64", "--frames", "5", "--device", "cpu"]


def test_the_command_keeps_the_best_attempt(own_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The built-in model, spoilt by guidance that the rules are free to change."""
    assert main([*DIRECT, "--steps", "3", "--fs", "8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["attempts"][0]["change"] is None
    assert 0 <= result["attempts"][0]["score"] <= 100
    assert result["attempts"][0]["sentence"].startswith("The clip ")
    best = [one for one in result["attempts"] if one["best"]][-1]
    kept = read_metadata(own_place / "circle-animate.mp4")["settings"]
    assert result["clips"][0]["settings"] == kept
    assert len(read_frames(own_place / "circle-animate.mp4")) == 5
    if best["change"] is not None:
        assert kept[best["change"]["setting"]] == best["change"]["value"]
    assert main([*DIRECT, "--rounds", "9"]) == 2
    assert "rounds must be 0 to 3, but 9 was given" in capsys.readouterr().err


def test_the_best_so_far_is_there_when_a_round_is_cancelled(
    own_place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Settings] = []

    def render(_: object, batch: Any, progress: object) -> list[Any]:
        made.append(batch[0].settings)
        if len(made) == 2:
            raise KeyboardInterrupt
        frames = torch.zeros(5, 64, 64, 3, dtype=torch.uint8)
        return [type("Clip", (), {"frames": frames})]

    monkeypatch.setattr(rounds, "render_batch", render)
    assert main(DIRECT) == 130
    assert len(made) == 2 and made[0] != made[1]
    told = capsys.readouterr()
    assert "first attempt: score " in told.out and "circle-animate.mp4: 64x64" in told.out
    assert "only the 1 finished clip(s) were written" in told.err
    assert read_metadata(own_place / "circle-animate.mp4")["settings"]["seed"] == made[0].seed
