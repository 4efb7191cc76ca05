"""What a short command imports: most of what it could cost is packages that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dynamicrafter.model import open_clip_modules
from dynamicrafter.model.encoders import CLIPImageEncoder, CLIPTextEncoder, clip_pixels
from dynamicrafter.model.variants import TINY

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "diffusers",
    "kornia",
    "open_clip",
    "sympy",
    "timm",
    "torch._dynamo",
    "torch._inductor",
    "torchvision",
    "transformers",
}
ANIMATE = ["animate", str(ROOT / "pictures" / "red_circle.png"), "--steps", "1", "--frames", "2", "-q"]

REPORT = """
import sys
{program}
print("modules:", *sys.modules)
"""


def imported(program: str, folder: Path) -> set[str]:
    """The modules that are imported when a program in a new process has ended."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", REPORT.format(program=program)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("modules:")]
    return set(line.split()[1:])


def test_importing_the_package_imports_no_pytorch(tmp_path: Path) -> None:
    found = imported("import dynamicrafter", tmp_path)
    assert "dynamicrafter" in found
    assert not found & {*HEAVY, "torch", "numpy", "PIL", "av"}


@pytest.mark.parametrize("words", [["--help"], ["animate", "--help"], ["animate", "--size", "wrong"]])
def test_help_and_wrong_usage_import_no_pytorch(tmp_path: Path, words: list[str]) -> None:
    found = imported(f"from dynamicrafter.cli import main; main({words!r})", tmp_path)
    assert "dynamicrafter.cli.parser" in found
    assert not found & {*HEAVY, "torch", "numpy", "PIL", "av"}


def test_a_clip_of_the_built_in_model_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    found = imported(f"from dynamicrafter.cli import main; assert main({ANIMATE!r}) == 0", tmp_path)
    assert {"torch", "av", "ftfy"} <= found
    assert not found & HEAVY


def test_the_parts_of_open_clip_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone and within the package, the same files give the same values."""
    alone = {name: open_clip_modules.open_clip_module(name) for name in ("transformer", "tokenizer")}
    import open_clip.tokenizer
    import open_clip.transformer

    for name, module in alone.items():
        assert module.__file__ == sys.modules[f"open_clip.{name}"].__file__
    assert alone["tokenizer"].SimpleTokenizer is not open_clip.tokenizer.SimpleTokenizer
    open_clip_modules.open_clip_module.cache_clear()
    assert open_clip_modules.open_clip_module("transformer") is open_clip.transformer
    open_clip_modules.open_clip_module.cache_clear()


def test_a_version_that_needs_more_is_imported_completely(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip.transformer

    def fails() -> None:
        raise ImportError("cannot import name 'new' from 'utils'")

    monkeypatch.setattr(open_clip_modules, "_stand_in", fails)
    monkeypatch.delitem(sys.modules, "open_clip")
    open_clip_modules.open_clip_module.cache_clear()
    try:
        assert open_clip_modules.open_clip_module("transformer").__name__ == "open_clip.transformer"
    finally:
        open_clip_modules.open_clip_module.cache_clear()
        sys.modules["open_clip"] = open_clip


def test_other_functions_of_its_utils_are_the_real_ones() -> None:
    """Those that are imported only if they are called."""
    import open_clip.utils

    open_clip_modules._stand_in()
    utils = sys.modules[f"{open_clip_modules._ALONE}.utils"]
    assert utils.feature_take_indices(12, 3) == open_clip.utils.feature_take_indices(12, 3)
    for value in (224, (224, 112)):
        assert utils.to_2tuple(value) == tuple(open_clip.utils.to_2tuple(value))


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_towers_without_values_have_the_same_tensors(tower: str) -> None:
    make = {
        "text": lambda device: CLIPTextEncoder(TINY.text, torch.float32, device),
        "vision": lambda device: CLIPImageEncoder(TINY.vision, torch.float32, device),
    }[tower]
    real, empty = (make(device).state_dict() for device in ("cpu", "meta"))
    assert {name: tensor.shape for name, tensor in empty.items()} == {
        name: tensor.shape for name, tensor in real.items()
    }
    assert all(tensor.is_meta for tensor in empty.values())
    assert all(tensor.abs().max() > 0 for name, tensor in real.items() if name.endswith("embedding"))


@pytest.mark.parametrize("size", [(64, 64), (1, 223), (100, 30), (224, 224), (223, 300)])
def test_pixels_are_those_of_kornia_whatever_the_size(size: tuple[int, int]) -> None:
    from kornia.geometry.transform import resize

    pictures = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(5)) * 2 - 1
    expected = resize(pictures, (224, 224), interpolation="bicubic", align_corners=True, antialias=True)
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]
    assert torch.equal(clip_pixels(pictures), ((expected + 1) / 2 - mean) / std)
