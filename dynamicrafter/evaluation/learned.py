"""Measures that other networks make: LPIPS, CLIP score, DreamSim's PIC, and the video features of FVD and KVD.

Each needs a package or weights that may not be here. What is missing is said in one line each and nothing is fetched,
unless that was asked for.
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
from ..catalogue import TOWERS
from ..download import weights_folder
from ..errors import CheckpointError, DynamiCrafterError, UsageError
from .clip_score import ClipScorer, find_towers, load_scorer
from .figures import Figure

Distance = Callable[[Tensor, Tensor], Tensor]
"""Pictures ``[n, 3, h, w]`` in [-1, 1] and as many others to ``[n]``."""
VideoFeatures = Callable[[Tensor], Tensor]
"""A clip ``[t, 3, h, w]`` in [-1, 1] to ``[d]``."""

FIRST_LPIPS = Figure("first frame to the picture, LPIPS", "lower")
LAST_LPIPS = Figure("last frame to the end picture, LPIPS", "lower")
PROMPT_CLIP = Figure("prompt to frames, CLIP score", "higher")
PICTURE_CLIP = Figure("picture to frames, CLIP score", "higher")
NEXT_CLIP = Figure("frame to next frame, CLIP score", "higher")
PIC = Figure("picture to frames, PIC", "higher")
FVD = Figure("FVD", "lower")
KVD = Figure("KVD", "lower")
LEARNED = (FIRST_LPIPS, LAST_LPIPS, PROMPT_CLIP, PICTURE_CLIP, NEXT_CLIP, PIC, FVD, KVD)
"""All figures that need weights."""

FEWEST_FRAMES = 10
"""Frames of a clip without which the video network has nothing left after its strides."""
_SIDE = 224
"""Pixels of the square pictures that DreamSim and the video network take."""
I3D_FILE = "i3d_torchscript.pt"
"""Name of the video network in the weights folder."""
_TOO_LITTLE_MEMORY = re.compile("(out of|allocate|enough) memory")
"""How PyTorch says it; TorchScript wraps it in errors of its own."""
_DREAMSIM_FILES = (
    "dino_vitb16_pretrain.pth",
    "clip_vitb16_pretrain.pth.tar",
    "open_clip_vitb16_pretrain.pth.tar",
    "ensemble_lora",
)
"""What the package's default, an ensemble of three networks, unpacks into its folder."""


@dataclass(frozen=True)
class Learned:
    """The learned measures that can be taken here; None for the others, with the reasons."""

    lpips: Distance | None = None
    clip: ClipScorer | None = None
    dreamsim: Distance | None = None
    video: VideoFeatures | None = None
    missing: tuple[str, ...] = ()
    """One sentence for each measure that cannot be taken: "LPIPS: not measured, needs ..."."""


class _Missing(Exception):
    """What a measure needs and has not; the message goes on from "needs"."""


def load_learned(
    device: torch.device | str = "cpu",
    *,
    model: ModelFiles | None = None,
    towers: Path | None = None,
    i3d: Path | None = None,
    fetch: bool = False,
) -> Learned:
    """All learned measures whose packages and weights are here, ready on ``device``.

    ``model`` is looked at for whole CLIP towers, ``towers`` names a file with them, ``i3d`` the TorchScript file of
    the video network (default: :data:`I3D_FILE` in the weights folder). With ``fetch``, the packages of LPIPS and
    DreamSim may download what they lack. Raises UsageError for a named file that is not there and CheckpointError for
    one that is no such network.
    """
    for named in (towers, i3d):
        if named is not None and not named.exists():
            raise UsageError(f"there is no file {named}; check the path")
    missing: list[str] = []

    def tried(name: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except _Missing as problem:
            missing.append(f"{name}: not measured, needs {problem}")
            return None

    def clip() -> ClipScorer:
        found = find_towers(model, towers)
        if found is None:
            raise _Missing(
                f"whole CLIP towers; 'dynamicrafter download {TOWERS}' fetches them, or give a file with --towers"
            )
        return load_scorer(found, device=device)

    return Learned(
        lpips=tried("LPIPS", lambda: load_lpips(device, fetch)),
        clip=tried("CLIP score", clip),
        dreamsim=tried("PIC", lambda: load_dreamsim(device, fetch)),
        video=tried("FVD and KVD", lambda: load_i3d(i3d, device)),
        missing=tuple(missing),
    )


def load_lpips(device: torch.device | str, fetch: bool = False) -> Distance:
    """LPIPS (arXiv 1801.03924) with AlexNet by the package lpips, or else torchmetrics."""
    if _package("lpips") is None and _package("torchmetrics") is None:
        raise _Missing("the package lpips (or torchmetrics); pip install lpips")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not fetch and not list(folder.glob("alexnet-owt-*.pth")):
        raise _Missing(f"AlexNet's weights in {folder}; --fetch lets the package download them (244 MB)")
    own = _package("lpips")
    with _quietly("LPIPS"):
        if own is not None:
            network = own.LPIPS(net="alex", verbose=False).to(device).train(False)
        else:
            images = import_module("torchmetrics.image.lpip")
            network = cast(Any, images).LearnedPerceptualImagePatchSimilarity(net_type="alex").to(device)

    @torch.inference_mode()
    def distance(a: Tensor, b: Tensor) -> Tensor:
        # One pair at a time: torchmetrics gives the mean of a batch only.
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
            raise _Missing(
                f"DreamSim's ensemble unpacked in {folder}; --fetch lets the package download it (about 1 GB)"
            )
        folder.mkdir(parents=True, exist_ok=True)
    hub = torch.hub.get_dir()
    try:
        with _quietly("DreamSim"):
            network, _ = package.dreamsim(pretrained=True, device=str(device), cache_dir=str(folder))
    finally:
        cast(Any, torch.hub).set_dir(hub)  # The package moves it to its own folder.

    @torch.inference_mode()
    def distance(a: Tensor, b: Tensor) -> Tensor:
        found = network(_unit_square(a).to(device), _unit_square(b).to(device))
        return found.float().reshape(-1).cpu()

    return distance


def load_i3d(path: Path | None, device: torch.device | str) -> VideoFeatures:
    """The video network of FVD (I3D on Kinetics-400, 400 values a clip) from its TorchScript file.

    Raises CheckpointError for a file that is no TorchScript network.
    """
    place = path or weights_folder() / I3D_FILE
    if not place.is_file():
        raise _Missing(f"the video network I3D as TorchScript; give it with --i3d or put it at {place}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit")
            network = cast(Any, torch.jit).load(str(place), map_location=device).train(False)
    except (RuntimeError, ValueError) as problem:
        raise CheckpointError(f"{place} is no TorchScript network; give I3D as {I3D_FILE}") from problem

    @torch.inference_mode()
    def features(clip: Tensor) -> Tensor:
        video = _square(clip).clamp(-1, 1).transpose(0, 1)[None].to(device)
        try:
            # The options of the file in use: pictures come at their size and range, features are wanted.
            found = network(video, rescale=False, resize=False, return_features=True)
        except (RuntimeError, cast(Any, torch.jit).Error) as problem:
            if _TOO_LITTLE_MEMORY.search(str(problem)):  # No fault of the file.
                raise MemoryError(
                    f"the video network needs more memory for a clip of {len(clip)} frames"
                ) from problem
            raise CheckpointError(
                f"{place} does not take clips as I3D does; give the TorchScript file {I3D_FILE}"
            ) from problem
        return found.float().flatten().cpu()

    return features


def measure_learned(
    clip: Tensor, learned: Learned, prompt: str = "", picture: Tensor | None = None, end: Tensor | None = None
) -> dict[str, float]:
    """The learned figures of a clip ``[t, 3, h, w]`` in [-1, 1], by name; pictures are ``[3, h, w]``.

    Figures of a picture or prompt that is not given are left out, as are those whose measure is not there.
    """
    figures: dict[str, float] = {}
    if learned.lpips is not None and picture is not None:
        figures[FIRST_LPIPS.name] = float(learned.lpips(clip[:1], picture[None])[0])
    if learned.lpips is not None and end is not None:
        figures[LAST_LPIPS.name] = float(learned.lpips(clip[-1:], end[None])[0])
    if learned.clip is not None:
        seen = learned.clip.see(clip)
        if prompt:
            figures[PROMPT_CLIP.name] = _score(seen, learned.clip.read([prompt]))
        if picture is not None:
            figures[PICTURE_CLIP.name] = _score(seen, learned.clip.see(picture[None]))
        if len(clip) > 1:
            figures[NEXT_CLIP.name] = _score(seen[1:], seen[:-1])
    if learned.dreamsim is not None and picture is not None:
        apart = learned.dreamsim(clip, picture[None].expand(len(clip), -1, -1, -1))
        figures[PIC.name] = float((1 - apart).mean())
    return figures


def _score(a: Tensor, b: Tensor) -> float:
    """Mean over frames of 100 times the cosine, 0 where that is negative (arXiv 2104.08718, scaled as usual)."""
    return float(100 * (a * b).sum(-1).clamp(min=0).mean())


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


@contextmanager
def _quietly(name: str) -> Generator[None]:
    """Other packages print and warn while they set up; what stops them becomes one sentence."""
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, RuntimeError, ValueError, KeyError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise DynamiCrafterError(
            f"{name} cannot be set up ({type(problem).__name__}: {reason}); remove its weights and fetch them again, "
            f"or leave it out with --plain"
        ) from problem


def _square(pictures: Tensor) -> Tensor:
    return F.interpolate(pictures.float(), (_SIDE, _SIDE), mode="bilinear", align_corners=False)


def _unit_square(pictures: Tensor) -> Tensor:
    """``[n, 3, h, w]`` in [-1, 1] to squares in [0, 1], as DreamSim's own preparation makes them."""
    resized = F.interpolate(pictures.float(), (_SIDE, _SIDE), mode="bicubic", antialias=True)
    return ((resized + 1) / 2).clamp(0, 1)
