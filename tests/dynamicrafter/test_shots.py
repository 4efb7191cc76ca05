"""Clips made together and one by one, without a command line: what is told, in which batches, and where they go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from cli_runs import paint

from dynamicrafter.api import find_model, load, provide, render_each
from dynamicrafter.errors import Cancelled, UsageError
from dynamicrafter.evaluation import comparison
from dynamicrafter.evaluation.comparison import ClipWay
from dynamicrafter.media.video import FrameStream, read_frames
from dynamicrafter.model.configs import Memory, Residence
from dynamicrafter.model.variants import SMALL, Variant
from dynamicrafter.pipeline import KeyPictures, generate
from dynamicrafter.records import read_record
from dynamicrafter.settings import Settings, make_settings
from dynamicrafter.shots import Means, Shot, batches, clip_targets, make, means_for, render_batch
from dynamicrafter.weights.footprint import ClipSize

QUICK = make_settings(SMALL, "animate", steps=1, frames=2)


def shot(settings: Settings, title: str = "clip", target: Path | str = "") -> Shot:
    return Shot(settings, (Path("picture.png"),), title, str(target))


@pytest.mark.parametrize(
    ("seeds", "size", "sizes"),
    [((1,), 1, [1]), ((1, 2, 3), 1, [1, 1, 1]), ((1, 2, 3), 2, [2, 1]), ((1, 2, 3), 9, [3])],
)
def test_clips_that_differ_in_their_seed_go_together(
    seeds: tuple[int, ...], size: int, sizes: list[int]
) -> None:
    shots = [shot(replace(QUICK, seed=seed)) for seed in seeds]
    made = list(batches(shots, size))
    assert [len(batch) for batch in made] == sizes
    assert [one for batch in made for one in batch] == shots


@pytest.mark.parametrize(
    "change", [{"steps": 2}, {"width": 128}, {"eta": 0.5}, {"mode": "loop", "frames": 3}]
)
def test_clips_that_differ_otherwise_do_not(change: dict[str, object]) -> None:
    other = replace(QUICK, **change)  # pyright: ignore[reportArgumentType]
    shots = [shot(QUICK), shot(other), shot(other), shot(QUICK)]
    assert [len(batch) for batch in batches(shots, 4)] == [1, 2, 1]


def test_clips_are_made_and_told_without_a_command(
    home: Path, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    shots = [
        Shot(replace(QUICK, seed=seed, prompt="boat " * 76), (pictures["wide"],), f"clip {seed}", target)
        for seed, target in enumerate(clip_targets([str(tmp_path / f"{n}.webp") for n in range(3)], []))
    ]
    files, notes = provide(find_model("random")), list[str]()
    told: dict[tuple[str, str], tuple[int, int]] = {}

    def progress(title: str, work: str, done: int, total: int) -> None:
        told[title, work] = done, total

    made = list(make(shots, files, Means("cpu", batch=2), progress, notes.append))
    assert [one.shot for one in made] == shots
    assert notes == ["the prompt has 76 tokens and is truncated to the first 75"]
    works = ("encode", "sample", "decode")
    together = [("clip 0 and 1 more", work) for work in works] + [("clip 2", work) for work in works]
    assert list(told)[:1] == [("random", "load")] and list(told)[-6:] == together
    assert all(done == total for done, total in told.values())
    for one in made:
        record = read_record(Path(one.shot.target))
        assert record.settings == one.shot.settings
        assert (record.model.asked, record.model.variant, record.model.dtype) == (
            "random",
            "small",
            "float32",
        )
        assert [known.file for known in record.pictures] == [pictures["wide"].name]
    clips = [read_frames(one.shot.target) for one in made]
    assert {clip.shape for clip in clips} == {(2, 64, 64, 3)}
    assert not torch.equal(clips[0], clips[2])


@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_a_clip_that_is_too_saturated_is_noted(
    home: Path, tmp_path: Path, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch, cfg: float
) -> None:
    """Which less guidance would help, so not without any."""
    burnt = torch.full((2, 64, 64, 3), 128, dtype=torch.uint8)
    burnt[:, :16] = 255

    def stream(model: object, batch: Sequence[Shot], *_: object) -> Iterator[FrameStream]:
        yield FrameStream([burnt], 2, 64, 64)

    monkeypatch.setattr("dynamicrafter.shots.stream_batch", stream)
    paint(tmp_path / "grey.png", 64, 64)
    one = Shot(replace(QUICK, cfg=cfg), (tmp_path / "grey.png",), "clip", str(tmp_path / "clip.webp"))
    notes = list[str]()
    list(make([one], find_model("random"), Means("cpu"), note=notes.append))
    said = (
        "clip: 25% more of its values than of the image's are black or full; a lower cfg or a higher "
        "guidance_rescale gives weaker colours"
    )
    assert notes == ([said] if cfg > 1 else [])


def test_whatever_progress_raises_stops_the_work(
    home: Path, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    def stop(title: str, work: str, done: int, total: int) -> None:
        if work == "sample":
            raise Cancelled("enough")

    one = Shot(QUICK, (pictures["wide"],), "clip", str(tmp_path / "clip.webp"))
    with pytest.raises(Cancelled, match="enough"):
        list(make([one], find_model("random"), Means("cpu"), stop))
    assert not list(tmp_path.glob("*.webp"))


@pytest.mark.parametrize("way", ["make", "render_batch", "render_each", "generate"])
def test_an_error_in_decoding_frees_the_device_at_once(
    home: Path, tmp_path: Path, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    placement = _Placement()
    model = replace(load("random", device="cpu"), placement=cast(Any, placement))
    monkeypatch.setattr("dynamicrafter.shots.load", lambda *_, **__: model)
    one = Shot(QUICK, (pictures["wide"],), "clip", str(tmp_path / "clip.webp"))

    def stop(*told: Any) -> None:
        if "decode" in told:
            raise Cancelled("enough")

    # What was caught keeps the frames of all functions, and with them suspended generators.
    with pytest.raises(Cancelled, match="enough") as caught:
        if way == "make":
            list(make([one], find_model("random"), Means("cpu"), stop))
        elif way == "render_batch":
            render_batch(model, [one], stop)
        elif way == "render_each":
            render_each(model, [QUICK], [pictures["wide"]], None, progress=stop)
        else:
            generate(model, KeyPictures(torch.zeros(1, 3, 64, 64)), [QUICK], stop)
    assert caught.tb is not None and placement.left == 1


class _Placement:
    """Counts how often the networks are taken off the device."""

    left = 0

    def leave(self) -> None:
        self.left += 1


def test_the_memory_of_a_comparison_is_that_of_its_clips(
    home: Path, monkeypatch: pytest.MonkeyPatch, pictures: dict[str, Path]
) -> None:
    files = provide(find_model("random"))
    known: list[Memory] = []

    def noted(means: Means, *_: Any) -> None:
        known.append(means.memory)
        raise Cancelled

    def picked(memory: Memory, variant: Variant, works: list[ClipSize], *_: Any) -> Residence:
        assert memory == "auto" and [work.frames for work in works] == [2]
        return "low"

    monkeypatch.setattr("dynamicrafter.shots.pick_residence", picked)
    monkeypatch.setattr(comparison, "load_with", noted)
    with pytest.raises(Cancelled):
        comparison._measured(print, ClipWay("a", files, QUICK, (pictures["wide"],)))
    assert known == ["low"]
    other = Means(backend="openvino")
    assert means_for([shot(QUICK)], files, other) is other


def test_a_batch_has_clips() -> None:
    with pytest.raises(UsageError, match="batch must be at least 1, but 0 was given"):
        Means(batch=0)
