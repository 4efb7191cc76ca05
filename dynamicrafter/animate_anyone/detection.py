"""Finds a person's keypoints in images with rtmlib (extra ``pose``), whose networks run in ONNX Runtime on the CPU.

Its weights come from the catalogue alone: rtmlib's own downloader is never asked, because the files are there, their
hashes are the catalogue's and the graphs are checked before it reads them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, Remedy, UsageError
from ..hashing import remembered_sha256
from ..weights.catalogue import POSES, Release, find, with_requirements
from ..weights.download import local_path, weights_folder
from .keypoints import CONFIDENCE, NOBODY, Person, person_of_coco
from .onnx_check import check_onnx

if TYPE_CHECKING:
    from torch import Tensor

_PEOPLE_SIZE = (640, 640)
_POSES_SIZE = (288, 384)
"""Width and height of the networks' inputs."""
_OVERLAP = 0.45
"""Share of two boxes in common above which they are one person."""


def load_finder() -> PoseFinder:
    """The released networks.

    Raises UsageError if rtmlib or their files are not there, and CheckpointError if a file is not the released one.
    """
    absent = [name for name in ("rtmlib", "onnxruntime") if find_spec(name) is None]
    if absent:
        raise UsageError(
            f"finding poses needs {' and '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not installed; "
            "install them with pip install 'dynamicrafter-studio[pose]'"
        )
    estimator, detector = (_verified(release) for release in with_requirements(find(POSES)))
    return PoseFinder(detector, estimator)


def _verified(release: Release) -> Path:
    path = local_path(release)
    if path is None:
        raise UsageError(f"the files of {POSES} are not downloaded", Remedy("download", (POSES,)))
    if remembered_sha256(path, weights_folder() / "hashes.json") != release.sha256:
        raise CheckpointError(
            f"{path} is not the released file; delete it", Remedy("download", (release.name,))
        )
    return path


class PoseFinder:
    """The two networks: one finds the people in an image, the other the 133 points of each."""

    def __init__(
        self,
        detector: Path,
        estimator: Path,
        sizes: tuple[tuple[int, int], tuple[int, int]] = (_PEOPLE_SIZE, _POSES_SIZE),
    ) -> None:
        """Read two ONNX files; ``sizes`` are width and height of their inputs.

        Raises CheckpointError for a file that is no ONNX file, names other files or has operators that are not ONNX's.
        """
        for path in (detector, estimator):
            check_onnx(path)
        import rtmlib  # pyright: ignore[reportMissingTypeStubs]

        library: Any = rtmlib
        people, poses = sizes
        # It prints what it loads, also in the middle of JSON.
        with redirect_stdout(io.StringIO()):
            self._people: Any = library.YOLOX(
                str(detector), people[::-1], nms_thr=_OVERLAP, score_thr=CONFIDENCE, backend="onnxruntime"
            )
            self._poses: Any = library.RTMPose(str(estimator), poses, backend="onnxruntime")

    def __call__(self, frames: Iterator[Tensor]) -> tuple[list[Person], int]:
        """The person in each frame, uint8 ``[h, w, 3]`` RGB, and the number of frames with several.

        Of several, the one with the highest mean score of the body; :data:`~.keypoints.NOBODY` where there is none.
        """
        found: list[Person] = []
        several = 0
        for frame in frames:
            # Both networks were trained on blue, green, red.
            pixels = np.ascontiguousarray(frame.numpy()[..., ::-1])
            boxes = self._people(pixels)
            several += len(boxes) > 1
            if not len(boxes):
                found.append(NOBODY)
                continue
            points, scores = self._poses(pixels, boxes)
            people = [[(float(x), float(y)) for x, y in person] for person in points]
            found.append(person_of_coco(people, scores.tolist(), frame.shape[1], frame.shape[0]))
        return found, several
