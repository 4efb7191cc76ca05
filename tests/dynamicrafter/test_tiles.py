"""Decoding in tiles: what is blended, how far it is from decoding whole images, and whether seams show."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from networks import TINY_VAE, filled, normal
from PIL import Image
from torch import Tensor

from dynamicrafter.api import load
from dynamicrafter.model.autoencoder import Autoencoder
from dynamicrafter.model.memory import MARGIN, vae_decode_bytes
from dynamicrafter.model.tiles import TILES, Tile, Tiles, in_tiles
from dynamicrafter.model.variants import TOON_512, V512
from dynamicrafter.model.video_decoder import VideoAutoencoder
from dynamicrafter.weights.footprint import tiles_for

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
SMALL = Tiles(size=8, overlap=4)


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Of images around [-1, 1]."""
    return 10 * math.log10(4 / float((found - wanted).square().mean()))


@pytest.mark.parametrize("size", [(8, 8), (8, 20), (21, 9), (30, 17)])
def test_equal_tiles_are_blended_to_what_they_are_parts_of(size: tuple[int, int]) -> None:
    x = normal(2, 3, *size)
    seen: list[Tile] = []

    def work(part: Tensor, window: Tile) -> Tensor:
        seen.append(window)
        return part.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    made = in_tiles(work, x, SMALL, 2)
    assert torch.allclose(made, x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), atol=1e-6)
    assert all((window.height, window.width) == (8, 8) for window in seen)
    tops = sorted({window.top for window in seen})
    assert tops[0] == 0 and tops[-1] == size[0] - 8
    assert all(0 < low - high <= 4 for high, low in zip(tops, tops[1:], strict=False))


def test_one_tile_fades_into_the_next() -> None:
    """The left tile is 0, the right one 1."""
    made = in_tiles(
        lambda part, window: torch.full_like(part, float(window.left > 0)), normal(1, 1, 8, 12), SMALL, 1
    )
    assert made[0, 0, 3].tolist() == pytest.approx(
        [0] * 4 + [0.0381, 0.3087, 0.6913, 0.9619] + [1] * 4, abs=1e-4
    )


def test_an_image_of_one_tile_is_decoded_as_a_whole() -> None:
    vae = filled(Autoencoder(TINY_VAE))
    latents = normal(1, 4, 8, 8)
    whole = vae.decode(latents)
    vae.tiles = SMALL
    assert torch.equal(vae.decode(latents), whole)


def test_a_clip_of_the_video_decoder_in_tiles() -> None:
    """Its layers over time have all frames, its references belong to the tile or are all there."""
    vae = filled(VideoAutoencoder(TINY_VAE))
    latents, pictures = 0.2 * normal(3, 4, 24, 24), normal(2, 3, 48, 48, seed=1)
    (whole,) = vae.frames(latents, pictures)
    vae.tiles = Tiles(size=20, overlap=12)
    (made,) = vae.frames(latents, pictures)
    assert made.shape == whole.shape
    alike = 10 * math.log10(float(whole.square().mean() / (made - whole).square().mean()))
    assert 15 < alike < 100
    # Without the references, or with those of another place, it would be none of that.
    (without,) = vae.frames(latents)
    assert 10 * math.log10(float(whole.square().mean() / (without - whole).square().mean())) < alike - 3


def test_seams_of_a_real_picture_are_not_seen(home: Path) -> None:
    vae = load("tiny", device="cpu", dtype="float32").vae
    picture = Image.open(ROOT / "pictures" / "harbour.png").convert("RGB").resize((384, 256))
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        latents = vae.encode(x).mean * vae.config.scale_factor
        whole = vae.decode(latents)
        vae.tiles = TILES
        made = vae.decode(latents)
    assert psnr(made, whole) > 38
    error = (made - whole)[0]
    # Steps of the error from column to column. Tiles begin and end at 16 and 32 latents.
    steps = (error[:, :, 1:] - error[:, :, :-1]).abs().mean(dim=(0, 1))
    borders = steps[[8 * 16 - 1, 8 * 32 - 1]]
    assert borders.max() < 0.25 / 127.5, "a quarter of a level of 8 bits"
    assert borders.max() < 0.6 * steps.max(), "larger elsewhere"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("memory")


def test_the_estimate_of_a_clip_in_tiles(benchmark: ModuleType) -> None:
    setup = benchmark.Setup(torch.float16, "fused")
    vae = benchmark.ready(VideoAutoencoder(TOON_512.vae, setup.operations()))
    vae.tiles = TILES
    picture, latents = setup.empty(1, 3, 320, 512), setup.empty(16, 4, 40, 64)
    live = benchmark.count(lambda: vae.decode_clip(latents, 16, vae.references(picture, picture)))
    estimate = vae_decode_bytes(TOON_512.vae, 16, 320 * 512, torch.float16, TILES)
    assert 0.999 <= estimate / MARGIN / live.peak_with_scratch <= 1.02
    assert estimate < 0.45 * vae_decode_bytes(TOON_512.vae, 16, 320 * 512, torch.float16)


def test_tiles_are_for_decoders_of_whole_clips_and_the_least_memory() -> None:
    assert tiles_for(TOON_512, "min") == TILES
    assert tiles_for(TOON_512, "low") is tiles_for(TOON_512, "high") is tiles_for(V512, "min") is None
