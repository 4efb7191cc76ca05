"""The poses of a clip: read from keypoints, drawings or a video of a person, then chosen, fitted and drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..bounded_json import parse_json
from ..errors import PictureError, Remedy, UsageError
from ..media.pictures import Picture
from ..media.video import ClipSource, open_clip
from ..settings import Fit
from .alignment import by_hand, filled, fit_to, fitted, smoothed
from .drawing import draw
from .framing import framed, placed
from .keypoints import Person
from .pose_files import canvas_of, crowded, poses_of_json

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_POSES = 2000
KEYPOINTS_FPS = 24.0
"""Rate of keypoints, whose files do not say one."""
MOST_SMOOTHED = 31

_LARGEST_JSON = 100_000_000
"""Bytes; the 2 million parts that are parsed take 40 MB with all digits, and 85 MB indented."""
_SHORT_SIDE, _LONG_SIDE, _MULTIPLE = 512, 2048, 64
"""Of the drawings that the released models were trained on, in pixels."""
_LOOKED_AT = 24
"""Drawings among which there must be one of a person."""

Finder = Callable[[Iterator[Tensor]], tuple[list[Person], int]]
"""Finds the person in each frame, uint8 ``[h, w, 3]``, and tells in how many frames there are several."""


def remembering(find: Finder) -> Finder:
    """``find``, with the frames that were looked at before: each is looked at once, in whatever clips it is."""
    known: dict[tuple[tuple[int, ...], bytes], tuple[Person, int]] = {}

    def find_new(frames: Iterator[Tensor]) -> tuple[list[Person], int]:
        people: list[Person] = []
        several = 0
        for frame in frames:
            key = tuple(frame.shape), hashlib.sha256(frame.numpy().tobytes()).digest()
            if key not in known:
                (person,), many = find(iter([frame]))
                known[key] = person, many
            people.append(known[key][0])
            several += known[key][1]
        return people, several

    return find_new


@dataclass(frozen=True)
class PoseChoices:
    """Which poses of a clip are used, and how they are fitted and drawn.

    Raises UsageError for a value out of range, naming it.
    """

    start: float = 0.0
    """Seconds of the clip that are skipped; keypoints count as 24 frames a second."""
    seconds: float | None = None
    """Seconds of the clip that are used; None for all."""
    every: int = 1
    """Every how many poses one is used."""
    frames: int | None = None
    """Number of poses, from the start on; None for all."""
    scale: float = 1.0
    """Factor of the person's size, on top of what fitting to the reference gives."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Way of the person to the right and down, as fractions of the frame."""
    smooth: int | None = None
    """Fill short gaps and average over this many frames, an odd number; None for neither."""
    hands: bool = True
    face: bool = True

    def __post_init__(self) -> None:
        """Check every value."""
        if not 0 <= self.start < 1e6:
            raise UsageError(f"start must be 0 seconds or more, but {self.start:g} was given")
        if self.seconds is not None and not 0 < self.seconds < 1e6:
            raise UsageError(f"seconds must be more than 0, but {self.seconds:g} was given")
        if self.every < 1:
            raise UsageError(f"every must be 1 or more, but {self.every} was given")
        if not 1 <= (self.frames or 1) <= MOST_POSES:
            raise UsageError(f"frames must be 1 to {MOST_POSES}, but {self.frames} was given")
        if not 0.01 <= self.scale <= 100:
            raise UsageError(f"scale must be 0.01 to 100, but {self.scale:g} was given")
        if not all(-4 <= value <= 4 for value in self.shift):
            raise UsageError(f"shift must be two numbers from -4 to 4, but {self.shift} was given")
        if self.smooth is not None and not (1 <= self.smooth <= MOST_SMOOTHED and self.smooth % 2):
            raise UsageError(
                f"smooth must be an odd number from 1 to {MOST_SMOOTHED}, but {self.smooth} was given"
            )

    def of(self, count: int, rate: float, name: str) -> range:
        """The poses that are used of ``count`` at ``rate`` per second; raises UsageError for none or too many."""
        first = round(self.start * rate)
        stop = count if self.seconds is None else min(count, first + max(1, round(self.seconds * rate)))
        found = range(first, stop, self.every)[: self.frames]
        if len(found) > MOST_POSES:
            raise UsageError(
                f"{name} gives {len(found)} poses, but a clip has at most {MOST_POSES}; choose fewer seconds or "
                "frames, or not every pose"
            )
        if len(found) < (self.frames or 1):
            raise UsageError(
                f"{name} gives {len(found)} poses of the {self.frames or 1} that are asked for; ask for fewer frames, "
                "for an earlier start or for every pose"
            )
        return found


@dataclass(frozen=True, eq=False)
class PoseClip:
    """Drawings that are made each time they are read, also in another process; those of a long clip take gigabytes."""

    count: int
    fps: float
    """Poses per second."""
    start: float
    """Where it begins in the clip it was read from, in seconds, and how long it takes."""
    seconds: float
    drawn: Callable[[], Iterator[Image]]
    notes: tuple[str, ...] = ()
    """What a person should know of the poses that were read."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Image]:
        return self.drawn()


def read_poses(
    path: str | Path,
    width: int,
    height: int,
    choices: PoseChoices | None = None,
    *,
    fit: Fit = "stretch",
    reference: Person | None = None,
    find: Finder | None = None,
) -> PoseClip:
    """The poses of a clip of ``width`` x ``height`` pixels.

    ``path`` is keypoints as JSON, a clip or folder of drawings, or with ``find`` a clip of a person. ``fit`` is how a
    canvas of another aspect ratio is fitted. ``reference``, keypoints as fractions of the clip's frame, is whose size
    and place the person gets. Raises PictureError for a file without poses, ClipError for a clip that cannot be read,
    and UsageError for choices that it cannot meet.
    """
    chosen, source, name = choices or PoseChoices(), Path(path), str(path)
    if source.suffix.lower() == ".json":
        values = _json(source)
        people = poses_of_json(values, name)
        canvas, several, rate = canvas_of(values), crowded(values), KEYPOINTS_FPS
        indices = chosen.of(len(people), rate, name)
        people = [people[i] for i in indices]
    else:
        clip = open_clip(source)
        rate = clip.fps or KEYPOINTS_FPS
        indices = chosen.of(clip.count, rate, name)
        canvas = (float(clip.width), float(clip.height))
        if find is None:
            return _drawings(clip, indices, rate, width, height, chosen, fit, reference)
        people, several = find(clip.frames(indices.start, indices.step, len(indices)))
        if len(people) != len(indices):
            raise PictureError(f"{name} ends before its last frames; write it again")
        if not any(any(person.body) for person in people):
            raise PictureError(f"{name} has no person in any of its {len(people)} frames; use another clip")
    if canvas is None and fit != "stretch":
        raise PictureError(
            f"{name} has no width and height of its canvas to {fit} it; add them, or stretch it"
        )
    if canvas is not None:
        people = [placed(person, canvas, width, height, fit) for person in people]
    people = _aligned(people, chosen, reference, width / height)
    notes = (
        (
            f"{name} has several people in {several} frames; the one with the highest score of the body is used",
        )
        if several
        else ()
    )
    size = drawing_size(width, height)

    return _clip(indices, rate, partial(_drawn, people, size, chosen.hands, chosen.face), notes)


def _drawn(people: list[Person], size: tuple[int, int], hands: bool, face: bool) -> Iterator[Image]:
    from PIL.Image import fromarray

    for person in people:
        yield fromarray(draw(person, size[1], size[0], hands=hands, face=face))


def drawing_size(width: float, height: float) -> tuple[int, int]:
    """Width and height in pixels of the drawings of a clip, which are then stretched to its size.

    The short side is 512 pixels, as of the released models' training data, because lines have a fixed width.
    """
    scale = _SHORT_SIDE / min(width, height) / _MULTIPLE
    across, down = (min(_LONG_SIDE, round(side * scale) * _MULTIPLE) for side in (width, height))
    return across, down


def keypoints_of(path: Path) -> tuple[Person, tuple[float, float] | None]:
    """The person of the first frame of a file of keypoints, and its canvas.

    Raises PictureError if it cannot be read or the frame has no person.
    """
    values = _json(path)
    person = poses_of_json(values, str(path))[0]
    if not any(person.body):
        raise PictureError(f"{path} has no person in its first frame; use keypoints of the image")
    return person, canvas_of(values)


def _aligned(
    people: list[Person], choices: PoseChoices, reference: Person | None, aspect: float
) -> list[Person]:
    try:
        if reference is not None:
            people = fitted(people, fit_to(reference, people, aspect))
    except ValueError as problem:
        raise PictureError(str(problem)) from problem
    if choices.scale != 1 or choices.shift != (0, 0):
        people = fitted(people, by_hand(people, choices.scale, choices.shift))
    return smoothed(filled(people), choices.smooth) if choices.smooth else people


def _drawings(
    clip: ClipSource,
    indices: range,
    rate: float,
    width: int,
    height: int,
    choices: PoseChoices,
    fit: Fit,
    reference: Person | None,
) -> PoseClip:
    """Drawings as they are."""
    plain = PoseChoices()
    for name in ("scale", "shift", "smooth", "hands", "face"):
        if getattr(choices, name) != getattr(plain, name):
            raise UsageError(f"{name} needs keypoints, but {clip.path} has drawings", Remedy("find_poses"))
    if reference is not None:
        raise UsageError(f"fitting needs keypoints, but {clip.path} has drawings", Remedy("find_poses"))

    looked = clip.frames(indices.start, indices.step, min(len(indices), _LOOKED_AT))
    if not any(bool((frame > 64).any()) for frame in looked):
        raise PictureError(
            f"{clip.path} has no person in its first {min(len(indices), _LOOKED_AT)} frames, which are black; use "
            "another clip or begin later"
        )
    return _clip(indices, rate, partial(_framed, clip, indices, (width, height), fit), ())


def _framed(clip: ClipSource, indices: range, size: tuple[int, int], fit: Fit) -> Iterator[Image]:
    for frame in clip.frames(indices.start, indices.step, len(indices)):
        yield framed(Picture(frame), *size, fit)


def _clip(
    indices: range, rate: float, drawn: Callable[[], Iterator[Image]], notes: tuple[str, ...]
) -> PoseClip:
    count, step = len(indices), indices.step
    return PoseClip(count, rate / step, indices.start / rate, count * step / rate, drawn, notes)


def _json(path: Path) -> object:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise PictureError(f"{path} has more than {_LARGEST_JSON // 10**6} MB; split it")
        return parse_json(path.read_bytes())
    except OSError as problem:
        raise PictureError(
            f"{path} cannot be read ({problem.strerror or problem}); check the path"
        ) from problem
    except ValueError as problem:
        if str(problem).endswith("parts"):
            raise PictureError(f"{path} is too long ({problem}); split it") from problem
        raise PictureError(
            f"{path} is not JSON ({problem}); use keypoints as OpenPose writes them"
        ) from problem
