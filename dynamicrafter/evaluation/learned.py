"""Metrics computed by other networks: LPIPS, CLIP score, DreamSim's PIC, and the video features of FVD and KVD.

Each needs a package or weights that may be missing. Missing parts are reported in one line each, and nothing is
downloaded unless requested.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..api import ModelFiles
from ..errors import CheckpointError, DynamiCrafterError, Remedy, UsageError
from ..weights.catalogue import TOWERS
from ..weights.download import weights_folder
from .clip_score import CLIPScorer, find_towers, load_scorer
from .figures import Figure

Distance = Callable[[Tensor, Tensor], Tensor]
"""Maps two batches of images ``[n, 3, h, w]`` in [-1, 1] to ``[n]``."""
VideoFeatures = Callable[[Tensor], Tensor]
"""Maps a clip ``[t, 3, h, w]`` in [-1, 1] to ``[d]``."""

FIRST_LPIPS = Figure("first frame to the picture, LPIPS", "lower")
LAST_LPIPS = Figure("last frame to the end picture, LPIPS", "lower")
PROMPT_CLIP = Figure("prompt to frames, CLIP score", "higher")
PICTURE_CLIP = Figure("picture to frames, CLIP score", "higher")
NEXT_CLIP = Figure("frame to next frame, CLIP score", "higher")
PIC = Figure("picture to frames, PIC", "higher")
FVD = Figure("FVD", "lower")
KVD = Figure("KVD", "lower")
LEARNED = (FIRST_LPIPS, LAST_LPIPS, PROMPT_CLIP, PICTURE_CLIP, NEXT_CLIP, PIC, FVD, KVD)
"""All metrics that need weights."""

FEWEST_FRAMES = 10
"""Minimum number of frames in a clip; with fewer, the video network's strides leave no output."""
_SIDE = 224
"""Side of the square inputs of DreamSim and the video network, in pixels."""
I3D_FILE = "i3d_torchscript.pt"
"""File name of the video network in the weights folder."""
_TOO_LITTLE_MEMORY = re.compile("(out of|allocate|enough) memory")
"""PyTorch's messages for a lack of memory; TorchScript wraps them in its own errors."""
_DREAMSIM_FILES = (
    "dino_vitb16_pretrain.pth",
    "clip_vitb16_pretrain.pth.tar",
    "open_clip_vitb16_pretrain.pth.tar",
    "ensemble_lora",
)
"""Files of the package's default, an ensemble of three networks, in its folder."""


@dataclass(frozen=True)
class Learned:
    """The available learned metrics; None for the others, with the reasons."""

    lpips: Distance | None = None
    clip_score: CLIPScorer | None = None
    dreamsim: Distance | None = None
    video: VideoFeatures | None = None
    missing: tuple[DynamiCrafterError, ...] = ()
    """One for each unavailable metric: "LPIPS: not measured, needs ..."."""


class _Missing(DynamiCrafterError):
    """A missing requirement of a metric; the facts continue the sentence after "needs"."""


def load_learned(
    device: torch.device | str = "cpu",
    *,
    model: ModelFiles | None = None,
    towers: Path | None = None,
    i3d: Path | None = None,
    fetch: bool = False,
) -> Learned:
    """Load all learned metrics whose packages and weights are available, on ``device``.

    ``towers`` is a file with the complete CLIP encoders, which are otherwise looked for in ``model``; ``i3d`` is the
    TorchScript file of the video network (default: :data:`I3D_FILE` in the weights folder). With ``fetch``, the
    packages of LPIPS and DreamSim may download what they lack. Raises UsageError for a file that does not exist and
    CheckpointError for one that is not such a network.
    """
    for named in (towers, i3d):
        if named is not None and not named.exists():
            raise UsageError(f"there is no file {named}; check the path")
    missing: list[DynamiCrafterError] = []

    def tried(name: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except _Missing as problem:
            facts = f"{name}: not measured, needs {problem.facts}"
            missing.append(DynamiCrafterError(facts, problem.remedy))
            return None

    def scorer() -> CLIPScorer:
        found = find_towers(model, towers)
        if found is None:
            raise _Missing("complete CLIP encoders", Remedy("name_towers", (TOWERS,)))
        return load_scorer(found, device=device)

    return Learned(
        lpips=tried("LPIPS", lambda: load_lpips(device, fetch)),
        clip_score=tried("CLIP score", scorer),
        dreamsim=tried("PIC", lambda: load_dreamsim(device, fetch)),
        video=tried("FVD and KVD", lambda: load_i3d(i3d, device)),
        missing=tuple(missing),
    )


def load_lpips(device: torch.device | str, fetch: bool = False) -> Distance:
    """LPIPS (arXiv 1801.03924) with AlexNet, from the package lpips or else torchmetrics."""
    if _package("lpips") is None and _package("torchmetrics") is None:
        raise _Missing("the package lpips (or torchmetrics); pip install lpips")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not fetch and not list(folder.glob("alexnet-owt-*.pth")):
        raise _Missing(f"AlexNet's weights in {folder}", Remedy("fetch", ("244 MB",)))
    own = _package("lpips")
    with _quietly("LPIPS"):
        if own is not None:
            network = own.LPIPS(net="alex", verbose=False).to(device).train(False)
        else:
            images = import_module("torchmetrics.image.lpip")
            network = cast(Any, images).LearnedPerceptualImagePatchSimilarity(net_type="alex").to(device)

    @torch.inference_mode()
    def distance(a: Tensor, b: Tensor) -> Tensor:
        # One pair at a time: torchmetrics returns only the mean of a batch.
        pairs = zip(a.clamp(-1, 1).to(device), b.clamp(-1, 1).to(device), strict=True)
        return torch.stack([network(x[None], y[None]).float().reshape(()).cpu() for x, y in pairs])

    return distance


def load_dreamsim(device: torch.device | str, fetch: bool = False) -> Distance:
    """DreamSim (arXiv 2306.09344), the package's default ensemble, with its files in the weights folder."""
    package = _package("dreamsim")
    if package is None:
        raise _Missing("the package dreamsim; pip install dreamsim")
    folder = weights_folder() / "dreamsim"
    if not all((folder / name).exists() for name in _DREAMSIM_FILES):
        if not fetch:
            raise _Missing(f"DreamSim's ensemble unpacked in {folder}", Remedy("fetch", ("about 1 GB",)))
        folder.mkdir(parents=True, exist_ok=True)
    hub = torch.hub.get_dir()
    try:
        with _quietly("DreamSim"):
            network, _ = package.dreamsim(pretrained=True, device=str(device), cache_dir=str(folder))
    finally:
        cast(Any, torch.hub).set_dir(hub)  # The package changes it to its own folder.

    @torch.inference_mode()
    def distance(a: Tensor, b: Tensor) -> Tensor:
        found = network(_unit_square(a).to(device), _unit_square(b).to(device))
        return found.float().reshape(-1).cpu()

    return distance


def load_i3d(path: Path | None, device: torch.device | str) -> VideoFeatures:
    """The video network of FVD (I3D on Kinetics-400, 400 values a clip) from its TorchScript file.

    Raises CheckpointError for a file that is not a TorchScript network.
    """
    place = path or weights_folder() / I3D_FILE
    if not place.is_file():
        raise _Missing("the video network I3D as TorchScript", Remedy("name_i3d", (str(place),)))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit")
            network = cast(Any, torch.jit).load(str(place), map_location=device).train(False)
    except (RuntimeError, ValueError) as problem:
        raise CheckpointError(f"{place} is not a TorchScript network; use I3D as {I3D_FILE}") from problem

    @torch.inference_mode()
    def features(clip: Tensor) -> Tensor:
        video = _square(clip).clamp(-1, 1).transpose(0, 1)[None].to(device)
        try:
            # The options of this TorchScript file: no resizing or rescaling of the input, return features.
            found = network(video, rescale=False, resize=False, return_features=True)
        except (RuntimeError, cast(Any, torch.jit).Error) as problem:
            if _TOO_LITTLE_MEMORY.search(str(problem)):  # The file is not at fault.
                raise MemoryError(
                    f"the video network needs more memory for a clip of {len(clip)} frames"
                ) from problem
            raise CheckpointError(
                f"{place} does not accept clips as I3D does; use the TorchScript file {I3D_FILE}"
            ) from problem
        return found.float().flatten().cpu()

    return features


def measure_learned(
    clip: Tensor, learned: Learned, prompt: str = "", picture: Tensor | None = None, end: Tensor | None = None
) -> dict[str, float]:
    """The learned metrics of a clip ``[t, 3, h, w]`` in [-1, 1], by name; images are ``[3, h, w]``.

    Metrics of an image or prompt that is not given are omitted, as are unavailable ones.
    """
    figures: dict[str, float] = {}
    if learned.lpips is not None and picture is not None:
        figures[FIRST_LPIPS.name] = float(learned.lpips(clip[:1], picture[None])[0])
    if learned.lpips is not None and end is not None:
        figures[LAST_LPIPS.name] = float(learned.lpips(clip[-1:], end[None])[0])
    if learned.clip_score is not None:
        seen = learned.clip_score.see(clip)
        if prompt:
            figures[PROMPT_CLIP.name] = _score(seen, learned.clip_score.read([prompt]))
        if picture is not None:
            figures[PICTURE_CLIP.name] = _score(seen, learned.clip_score.see(picture[None]))
        if len(clip) > 1:
            figures[NEXT_CLIP.name] = _score(seen[1:], seen[:-1])
    if learned.dreamsim is not None and picture is not None:
        apart = learned.dreamsim(clip, picture[None].expand(len(clip), -1, -1, -1))
        figures[PIC.name] = float((1 - apart).mean())
    return figures


def _score(a: Tensor, b: Tensor) -> float:
    """Mean over frames of 100 times the cosine similarity, clamped at 0 (arXiv 2104.08718, with the usual scale)."""
    return float(100 * (a * b).sum(-1).clamp(min=0).mean())


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


@contextmanager
def _quietly(name: str) -> Generator[None]:
    """Suppress output and warnings while another package is set up; its errors become one sentence."""
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, RuntimeError, ValueError, KeyError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise DynamiCrafterError(
            f"{name} cannot be set up ({type(problem).__name__}: {reason})", Remedy("skip_learned")
        ) from problem


def _square(pictures: Tensor) -> Tensor:
    return F.interpolate(pictures.float(), (_SIDE, _SIDE), mode="bilinear", align_corners=False)


def _unit_square(pictures: Tensor) -> Tensor:
    """``[n, 3, h, w]`` in [-1, 1] to squares in [0, 1], as in DreamSim's own preprocessing."""
    resized = F.interpolate(pictures.float(), (_SIDE, _SIDE), mode="bicubic", antialias=True)
    return ((resized + 1) / 2).clamp(0, 1)
