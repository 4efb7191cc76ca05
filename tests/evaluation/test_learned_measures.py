"""Learned measures: what is handed to their packages, and what is said where one is missing.

The packages and their weights are stood in for by modules that compute something simple.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynamicrafter.errors import CheckpointError, DynamiCrafterError, UsageError
from dynamicrafter.evaluation.learned import (
    FIRST_LPIPS,
    I3D_FILE,
    LAST_LPIPS,
    PIC,
    Learned,
    load_dreamsim,
    load_i3d,
    load_learned,
    load_lpips,
    measure_learned,
)
from dynamicrafter.evaluation.measure import (
    Asked,
    distances_missing,
    measure_frames,
    real_features,
    summarise,
)

PACKAGES = ("lpips", "torchmetrics", "dreamsim")


class Video(nn.Module):
    """Stands in for I3D: takes clips and options as its file does."""

    def forward(
        self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> Tensor:
        if rescale or resize or not return_features:
            return torch.zeros(x.shape[0], 1)
        steps = (x[:, :, 1:] - x[:, :, :-1]).abs()
        return torch.cat([x.mean(dim=[2, 3, 4]), steps.mean(dim=[2, 3, 4])], dim=1)


def write_script(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        # PyTorch would have TorchScript replaced, but the network of FVD is published in it.
        warnings.filterwarnings("ignore", "`torch.jit")
        torch.jit.save(torch.jit.script(network), str(path))
    return path


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the packages is installed."""
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def alexnet(tmp_path: Path) -> Path:
    """Something under the name of the weights that LPIPS needs, where PyTorch keeps them."""
    path = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    return path


def package(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    module = ModuleType(name)
    for key, value in contents.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


class Apart(nn.Module):
    """Half the mean absolute difference, in the shape that the package lpips gives."""

    def __init__(self, net: str = "", verbose: bool = True) -> None:
        super().__init__()
        assert (net, verbose) == ("alex", False)
        sys.stdout.write("Setting up\n")

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        assert min(a.min(), b.min()) >= -1 and max(a.max(), b.max()) <= 1
        return (a - b).abs().mean((1, 2, 3), keepdim=True) / 2


@pytest.fixture
def i3d(tmp_path: Path) -> Path:
    path = tmp_path / "weights" / I3D_FILE
    path.parent.mkdir(exist_ok=True)
    return write_script(Video(), path)


def pictures(*values: float) -> Tensor:
    return torch.stack([torch.full((3, 32, 32), value) for value in values])


@pytest.mark.usefixtures("absent")
def test_what_is_missing_is_said_in_a_line_each() -> None:
    learned = load_learned()
    assert (learned.lpips, learned.clip_score, learned.dreamsim, learned.video) == (None, None, None, None)
    lines = [str(line).partition(": not measured, needs ")[::2] for line in learned.missing]
    assert [name for name, _ in lines] == ["LPIPS", "CLIP score", "PIC", "FVD and KVD"]
    for (_, reason), words in zip(
        lines, ("pip install lpips", "find('towers')", "pip install dreamsim", "pass i3d="), strict=True
    ):
        assert words in reason and "\n" not in reason
    assert measure_learned(pictures(0, 1), learned, "a prompt", pictures(0)[0]) == {}


def test_a_package_without_weights_downloads_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it would have downloaded")

    package(monkeypatch, "lpips", LPIPS=never)
    package(monkeypatch, "dreamsim", dreamsim=never)
    first, _, third, _ = map(str, load_learned().missing)
    assert "AlexNet's weights" in first and "pass fetch=True" in first and "(244 MB)" in first
    assert "unpacked in" in third and "pass fetch=True" in third
    assert not (tmp_path / "weights" / "dreamsim").exists()


@pytest.mark.usefixtures("alexnet")
def test_lpips_compares_the_ends_with_their_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package(monkeypatch, "lpips", LPIPS=Apart)
    learned = Learned(lpips=load_lpips("cpu"))
    clip = pictures(0.0, 0.5, 1.0)
    figures = measure_learned(clip, learned, "", pictures(0.2)[0], pictures(0.2)[0])
    assert figures == {
        FIRST_LPIPS.name: pytest.approx(0.1),
        LAST_LPIPS.name: pytest.approx(0.4),
    }
    assert measure_learned(clip, learned) == {}
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("alexnet")
def test_torchmetrics_does_where_lpips_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Metric(Apart):
        def __init__(self, net_type: str) -> None:
            super().__init__(net_type, False)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return super().forward(a, b).mean()

    monkeypatch.setitem(sys.modules, "lpips", None)
    package(monkeypatch, "torchmetrics")
    package(monkeypatch, "torchmetrics.image")
    package(monkeypatch, "torchmetrics.image.lpip", LearnedPerceptualImagePatchSimilarity=Metric)
    assert load_lpips("cpu")(pictures(0, 0), pictures(0.2, 1)).tolist() == pytest.approx([0.1, 0.5])


@pytest.mark.usefixtures("alexnet")
def test_a_package_that_cannot_be_set_up_is_an_error_of_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("the file is cut\nat byte 7")

    package(monkeypatch, "lpips", LPIPS=broken)
    with pytest.raises(DynamiCrafterError, match=r"LPIPS cannot be set up \(RuntimeError: the file is cut\)"):
        load_lpips("cpu")


def test_pic_is_the_mean_nearness_of_all_frames(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "weights" / "dreamsim"
    asked: dict[str, Any] = {}

    def dreamsim(**given: Any) -> tuple[Callable[[Tensor, Tensor], Tensor], None]:
        asked.update(given)
        sys.stdout.write("Using cached\n")
        torch.hub.set_dir(str(folder))

        def distance(a: Tensor, b: Tensor) -> Tensor:
            assert a.shape == b.shape == (2, 3, 224, 224)
            assert min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) <= 1
            return (a - b).abs().mean((1, 2, 3))

        return distance, None

    folder.mkdir(parents=True)
    for name in ("dino_vitb16_pretrain.pth", "clip_vitb16_pretrain.pth.tar"):
        (folder / name).touch()
    package(monkeypatch, "dreamsim", dreamsim=dreamsim)
    assert any("DreamSim's ensemble" in line.facts for line in load_learned().missing)
    for name in ("open_clip_vitb16_pretrain.pth.tar", "ensemble_lora"):
        (folder / name).touch()
    hub = torch.hub.get_dir()
    learned = Learned(dreamsim=load_dreamsim("cpu"))
    assert torch.hub.get_dir() == hub
    assert asked == {"pretrained": True, "device": "cpu", "cache_dir": str(folder)}
    figures = measure_learned(pictures(-1, 0), learned, "", pictures(-1)[0])
    assert figures == {PIC.name: pytest.approx(1 - (0 + 0.5) / 2)}
    assert capsys.readouterr().out == ""


def test_the_video_network_sees_squares_and_is_asked_for_features(i3d: Path) -> None:
    by_default, named = load_i3d(None, "cpu"), load_i3d(i3d, "cpu")
    clip = pictures(*[0.1 * index for index in range(10)])
    wanted = [0.45] * 3 + [0.1] * 3
    assert by_default(clip).tolist() == pytest.approx(wanted, abs=1e-5)
    assert named(clip).tolist() == pytest.approx(wanted, abs=1e-5)


def test_files_that_are_no_video_network_are_told(tmp_path: Path) -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(UsageError, match="there is no file .*nothing.pt; check the path"):
        load_learned(i3d=tmp_path / "nothing.pt")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no network")
    with pytest.raises(CheckpointError, match="broken.pt is not a TorchScript network"):
        load_i3d(broken, "cpu")
    other = tmp_path / "other.pt"
    write_script(Other(), other)
    with pytest.raises(CheckpointError, match="other.pt does not accept clips as I3D does"):
        load_i3d(other, "cpu")(pictures(*[0.0] * 10))


def test_too_little_memory_is_not_laid_to_the_file(tmp_path: Path) -> None:
    class Large(nn.Module):
        def forward(
            self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
        ) -> Tensor:
            raise RuntimeError("CUDA out of memory")

    path = write_script(Large(), tmp_path / "large.pt")
    with pytest.raises(MemoryError, match="more memory for a clip of 10 frames"):
        load_i3d(path, "cpu")(pictures(*[0.0] * 10))


def test_made_clips_like_the_real_ones_are_nearer_to_them(i3d: Path, soft_frames: Tensor) -> None:
    learned = Learned(video=load_i3d(i3d, "cpu"))
    like = [soft_frames.roll(index, 2) for index in range(4)]
    unlike = [torch.full_like(soft_frames, 30 * index) for index in range(4)]
    real = [real_features(soft_frames.roll(index + 7, 2), learned, 12) for index in range(4)]
    near, far = (
        summarise([measure_frames(frames, Asked(), learned) for frames in made], real)
        for made in (like, unlike)
    )
    assert near["FVD"].mean < 0.1 * far["FVD"].mean
    assert near["KVD"].mean < far["KVD"].mean
    assert near["FVD"].clips == 4 and near["FVD"].deviation is None


def test_short_or_single_clips_have_no_distance(i3d: Path, soft_frames: Tensor) -> None:
    learned = Learned(video=load_i3d(i3d, "cpu"))
    short = measure_frames(soft_frames[:9], Asked(), learned)
    long = measure_frames(soft_frames, Asked(), learned)
    real = [real_features(soft_frames, learned, 12), real_features(soft_frames, learned, 9)]
    assert len(short.features) == len(real[1]) == 0
    assert "FVD" not in summarise([short, long], real)
    assert distances_missing([short, long], real, learned) == (
        "FVD and KVD: not measured, needs 2 generated and 2 real clips of 10 frames or more, but there are 1 and 1"
    )
    assert distances_missing([long, long], [real[0]] * 2, learned) is None
    assert distances_missing([], [], Learned()) is None
