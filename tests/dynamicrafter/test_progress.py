"""Progress where there is no terminal, and the time left for several clips."""

from __future__ import annotations

import pytest

from dynamicrafter.cli import progress
from dynamicrafter.cli.progress import Bars


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def sample(bars: Bars, clock: Clock, title: str, seconds: float, steps: int = 10) -> None:
    """A clip whose steps take this long each."""
    bars.clip(title, "encode", 0, 1)
    for step in range(steps + 1):
        bars.clip(title, "sample", step, steps)
        clock.now += seconds if step < steps else 0


def test_short_work_leaves_no_line_in_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bars("tiny", hidden=False) as bars:
        sample(bars, clock, "clip.mp4", seconds=2.9)
    assert capsys.readouterr().err == ""


def test_long_work_is_told_twice_a_minute_with_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bars("tiny", hidden=False) as bars:
        sample(bars, clock, "clip.mp4", seconds=12)
    assert capsys.readouterr().err.splitlines() == [
        "clip.mp4: sampling 3/10 steps, 01:24 left",
        "clip.mp4: sampling 6/10 steps, 00:48 left",
        "clip.mp4: sampling 9/10 steps, 00:12 left",
    ]


def test_the_time_left_for_all_clips_is_that_of_the_finished_ones(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = Bars("tiny", hidden=False, clips=3)
    clock.now += 500  # Loading does not count.
    for number in (1, 2, 3):
        sample(bars, clock, f"{number}.mp4 ({number} of 3)", seconds=16, steps=2)
        bars.finished(number)
    assert capsys.readouterr().err.splitlines() == [
        "1.mp4 (1 of 3): encoding 0/1 steps",
        "1.mp4 (1 of 3): sampling 2/2 steps, 00:00 left",
        "2.mp4 (2 of 3): sampling 2/2 steps, 00:00 left, 00:32 left for all 3 clips",
        "3.mp4 (3 of 3): sampling 2/2 steps, 00:00 left, 00:00 left for all 3 clips",
    ]


def test_bytes_and_unknown_totals_are_told_too(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars("512", hidden=False)
    for done, total in ((1_000_000_000, 10_400_000_000), (2_000_000_000, 10_400_000_000)):
        bars.transfer("downloading", done, total)
        clock.now += 30
    bars.figures(3, None)
    assert capsys.readouterr().err.splitlines() == [
        "512: downloading 2.00G/10.4GB, 04:12 left",
        "512: measuring 3",
    ]


def test_hidden_progress_is_hidden_in_a_log_too(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    sample(Bars("tiny", hidden=True), clock, "clip.mp4", seconds=60)
    assert capsys.readouterr().err == ""
