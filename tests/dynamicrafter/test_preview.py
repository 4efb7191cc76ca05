"""Preview colours: what is fitted, how it is stored, and that it changes nothing else of a checkpoint."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_checkpoints import small
from torch import Tensor

from dynamicrafter.api import find_model, load
from dynamicrafter.errors import CheckpointError
from dynamicrafter.evaluation.figures import psnr
from dynamicrafter.model.preview import PreviewColours, fit_preview, reduced
from dynamicrafter.model.variants import SMALL
from dynamicrafter.pipeline import TorchModel
from dynamicrafter.toy.autoencoder import still_frames
from dynamicrafter.toy.tiny import refit_preview
from dynamicrafter.weights.convert import convert
from dynamicrafter.weights.detect import variant_metadata
from dynamicrafter.weights.formats.files import open_weights, tensors_sha256
from dynamicrafter.weights.preview import PREVIEW_KEY, preview_metadata, preview_of

COLOURS = PreviewColours(((0.5, 0, 0), (0, 0.25, 0), (0, 0, -0.5), (0.1, 0.1, 0.1)), (0.05, 0, -0.1))
STABLE_DIFFUSION = PreviewColours(
    (
        (0.3512, 0.2297, 0.3227),
        (0.3250, 0.4974, 0.2350),
        (-0.2829, 0.1762, 0.2721),
        (-0.2120, -0.2616, -0.7177),
    ),
    (0, 0, 0),
)
"""Those ComfyUI has for Stable Diffusion 1.5."""


class Linear:
    """An autoencoder of which the colours of images are a linear function of the latents."""

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents

    def encode(self, pictures: Tensor) -> Any:
        return SimpleNamespace(mean=self.latents)


def test_a_linear_autoencoder_is_fitted_exactly() -> None:
    latents = torch.randn(3, 4, 2, 5, generator=torch.Generator().manual_seed(1)) * 0.5
    pictures = COLOURS.draw(latents).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert pictures.abs().max() < 1
    codec: Any = Linear(latents / 0.25)
    assert fit_preview(codec, pictures, scale=0.25) == COLOURS


def test_a_cell_is_the_mean_of_its_pixels() -> None:
    picture = torch.zeros(1, 3, 8, 16)
    picture[:, 0, :, 8:12] = 1
    assert torch.equal(reduced(picture)[0, 0], torch.tensor([[0.0, 0.5]]))


def test_colours_are_limited_to_those_that_exist() -> None:
    assert COLOURS.draw(torch.full((1, 4, 1, 1), 100.0)).flatten().tolist() == [1, 1, -1]


def test_the_built_in_model_shows_its_own_colours() -> None:
    """On images it never saw: 24.9 dB and correlations of 0.92, 0.89 and 0.93, against 8.9, 0.16, -0.03 and -0.82."""
    model = load("tiny", device="cpu")
    assert isinstance(model, TorchModel)
    pictures = still_frames(64, 5)
    with torch.no_grad():
        latents = model.variant.vae.scale_factor * model.vae.encode(pictures).mean
    wanted = reduced(pictures)
    own = preview_of(open_weights(find_model("tiny").weights))
    assert own is not None and own == model.preview
    found = {name: colours.draw(latents) for name, colours in (("own", own), ("other", STABLE_DIFFUSION))}
    decibels = {name: float(psnr(wanted, drawn).mean()) for name, drawn in found.items()}
    assert decibels["own"] > 24
    assert decibels["other"] < 10
    assert all(value > 0.87 for value in correlations(wanted, found["own"]))
    assert min(correlations(wanted, found["other"])) < -0.7


def correlations(wanted: Tensor, drawn: Tensor) -> list[float]:
    """Of red, green and blue."""
    pairs = zip(wanted.movedim(1, 0).flatten(1), drawn.movedim(1, 0).flatten(1), strict=True)
    return [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]


def test_a_refit_changes_neither_tensors_nor_variant(tmp_path: Path) -> None:
    """The hash is that by which clips know the model."""
    path = tmp_path / "tiny.safetensors"
    shutil.copyfile(find_model("tiny").weights, path)
    before, hashed = open_weights(path), tensors_sha256(path)
    fitted = refit_preview(path)
    after = open_weights(path)
    assert tensors_sha256(path) == hashed
    assert hashed == "4f3ee3d35b0e35ad1f6655f1a747079b0385f885c05c8f546058432805dc86ee"
    assert after.metadata.keys() == before.metadata.keys()
    assert after.metadata["dynamicrafter.variant"] == before.metadata["dynamicrafter.variant"]
    stored = preview_of(before)
    assert stored is not None
    assert torch.allclose(torch.tensor(fitted.factors), torch.tensor(stored.factors), atol=1e-3)


def stored(tmp_path: Path, metadata: dict[str, str]) -> Path:
    path = tmp_path / "a.safetensors"
    save_file(small(), path, variant_metadata(SMALL) | metadata)
    return path


def test_a_conversion_keeps_the_colours(tmp_path: Path) -> None:
    path = stored(tmp_path, preview_metadata(COLOURS))
    convert(path, tmp_path / "b.safetensors", prune=True)
    assert preview_of(open_weights(tmp_path / "b.safetensors")) == COLOURS


def test_a_trained_model_keeps_the_colours(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="training needs accelerate")
    from dynamicrafter.training.finetune import save_model

    model: Any = load(stored(tmp_path, preview_metadata(COLOURS)), device="cpu")
    path = tmp_path / "trained.safetensors"
    save_model(model, model.unet.state_dict(), model.resampler.state_dict(), path)
    assert preview_of(open_weights(path)) == COLOURS
    save_model(replace(model, preview=None), model.unet.state_dict(), model.resampler.state_dict(), path)
    assert PREVIEW_KEY not in open_weights(path).metadata


def test_a_checkpoint_without_colours_has_none(tmp_path: Path) -> None:
    assert preview_of(open_weights(stored(tmp_path, {}))) is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", r"a\.safetensors has invalid preview colours \(.+\); convert it again"),
        ("[]", r"the preview colours of .*a\.safetensors must be an object, not \[\]"),
        (json.dumps({"factors": [[1, 1, 1]] * 4}), "must contain bias; it is damaged, write it again"),
        (
            json.dumps({"factors": [[1, 1, 1]] * 3, "bias": [0, 0, 0]}),
            "factors in the preview colours of .* must be a list of 4",
        ),
        (json.dumps({"factors": [[1, 1, "x"]] * 4, "bias": [0, 0, 0]}), "must be a list of 4"),
    ],
)
def test_damaged_colours_are_named(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        preview_of(open_weights(stored(tmp_path, {PREVIEW_KEY: text})))
