"""The recipe of the built-in model: pools, batches, export, and what the shipped checkpoint does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynamicrafter.model.autoencoder import Autoencoder
from dynamicrafter.model.encoders import tokenize
from dynamicrafter.model.operations import fused_attention
from dynamicrafter.model.resampler import Resampler
from dynamicrafter.toy import tiny
from dynamicrafter.toy.autoencoder import (
    AutoencoderLoss,
    DecoderLoss,
    frame_draw,
    normalise_latents,
    still_frames,
)
from dynamicrafter.toy.pools import (
    GROUP,
    Pool,
    kept_pool,
    mixed_draw,
    mixed_scenes,
    prompted_draw,
    prompted_scenes,
)
from dynamicrafter.toy.tiny import TINY, denoising_loss, export, matrix_attention, text_gauge
from dynamicrafter.toy.towers import (
    CompactText,
    TextLoss,
    VisionLoss,
    caption_draw,
    picture_draw,
    toy_vocabulary,
)
from dynamicrafter.toy.world import DIRECTIONS, captions, make_clips, sample_scenes
from dynamicrafter.training.state import save_state
from dynamicrafter.weights.load import load_components

pytest.importorskip("accelerate", reason="training needs accelerate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first stages leave, untrained."""
    place = tmp_path_factory.mktemp("tiny")
    vae = Autoencoder(TINY.vae).state_dict()
    save_state(vae, place / "vae.pt")
    save_state(vae, place / "decoder.pt")
    text = CompactText(TINY.text, toy_vocabulary())
    save_state(text.tower.state_dict(), place / "text.pt")
    save_state(VisionLoss(TINY.vision).tower.state_dict(), place / "vision.pt")
    return place


@pytest.fixture(scope="module")
def pool(folder: Path) -> Pool:
    return kept_pool(folder, "test", lambda: mixed_scenes(3, 1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_groups_share_the_picture_and_differ_in_motion() -> None:
    for scenes in (mixed_scenes(5, 1), prompted_scenes(5, 1)):
        first = make_clips(scenes, 2)[:, 0].view(5, GROUP, -1)
        assert all(torch.equal(first[:, 0], first[:, member]) for member in range(GROUP))
        motions = scenes.motion[:, 0].view(5, GROUP)
        assert all(len(set(row.tolist())) == GROUP for row in motions)
        assert (scenes.fs.view(5, GROUP) == scenes.fs.view(5, GROUP)[:, :1]).all()
    assert len(DIRECTIONS) == GROUP


def test_ways_of_all_lengths_are_equally_frequent_when_asked() -> None:
    for by_distance, fast in ((False, 0.26), (True, 0.56)):
        fs = mixed_scenes(3000, 1, by_distance=by_distance).fs
        assert (int(fs.min()), int(fs.max())) == (8, 30)
        assert float((fs <= 13).float().mean()) == pytest.approx(fast, abs=0.03)


def test_a_pool_holds_what_the_networks_are_given(pool: Pool) -> None:
    assert pool.latents.shape == (12, 4, 16, 8, 8)
    assert pool.text.shape == (12, 77, 64)
    assert pool.vision.shape == (3, 65, 64)


def test_a_pool_is_encoded_once(folder: Path, pool: Pool) -> None:
    def never() -> None:
        raise AssertionError("encoded again")

    assert torch.equal(kept_pool(folder, "test", never).latents, pool.latents)


def test_batches_of_prompts_share_noise_and_time(pool: Pool) -> None:
    batch = prompted_draw(pool, 8)(seeded())
    for start in (0, 4):
        assert torch.equal(batch["noise"][start], batch["noise"][start + 3])
        assert batch["t"][start] == batch["t"][start + 3]
        assert not torch.equal(batch["text"][start], batch["text"][start + 1])
    assert all(torch.equal(batch["concat"][:, :, f], batch["latents"][:, :, 0]) for f in range(16))


def test_mixed_batches_hold_all_modes(pool: Pool) -> None:
    draw = mixed_draw(pool, 8)
    ends, dropped = 0, 0
    for seed in range(40):
        batch = draw(seeded(seed))
        both = ~batch["concat"][:, :, 1:-1].flatten(1).any(1)
        ends += int(both.sum())
        assert torch.equal(batch["concat"][both][:, :, -1], batch["latents"][both][:, :, -1])
        dropped += int((batch["text"] == pool.empty).flatten(1).all(1).sum())
    assert 20 < ends < 200
    assert 10 < dropped < 60


def test_half_of_a_mixed_batch_differs_in_the_prompt_alone(pool: Pool) -> None:
    batch = mixed_draw(pool, 8)(seeded())
    group, rest = slice(0, GROUP), slice(GROUP, 8)
    assert len(set(batch["t"][group].tolist())) == 1
    assert all(torch.equal(noise, batch["noise"][0]) for noise in batch["noise"][group])
    assert len(set(batch["t"][rest].tolist())) == GROUP
    assert not torch.equal(batch["noise"][4], batch["noise"][5])
    assert len(set(mixed_draw(pool, 8, grouped=0)(seeded())["t"].tolist())) == 8


@torch.no_grad()
def test_fresh_networks_begin_with_zero_output(pool: Pool) -> None:
    loss = denoising_loss(0)
    batch = prompted_draw(pool, 4)(seeded())
    said = loss.predict(*(batch[key] for key in ("latents", "t", "concat", "text", "vision", "fs")))
    assert not said.any()
    assert float(loss(**batch).detach()) > 0


def test_the_gauge_compares_captions(pool: Pool) -> None:
    figures = text_gauge(pool)(denoising_loss(0))
    assert figures["true"] == pytest.approx(figures["other"])


def test_matrix_attention_is_attention() -> None:
    q, k, v = (torch.randn(2, n, 32, generator=seeded(n)) for n in (5, 7, 7))
    assert torch.allclose(matrix_attention(q, k, v, 4), fused_attention(q, k, v, 4), atol=1e-6)


def test_an_export_loads_like_any_other_checkpoint(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    export(folder, denoising_loss(0).state_dict(), path)
    parts = load_components(path, device=torch.device("cpu"), dtype=torch.float32)
    assert parts.variant == TINY
    assert parts.preview is not None
    assert path.stat().st_size < 20e6
    text = CompactText(TINY.text, toy_vocabulary())
    text.tower.load_state_dict(torch.load(folder / "text.pt", weights_only=True))
    prompts = captions(sample_scenes(4, seeded()))
    with torch.no_grad():
        full = parts.text(prompts)
        assert torch.allclose(full, text.encode(prompts), atol=0.02)


def test_every_caption_is_in_the_vocabulary() -> None:
    ids = set(toy_vocabulary().tolist())
    words = captions(sample_scenes(400, seeded(), pairs=0.3), seeded(1))
    assert set(tokenize(words).unique().tolist()) <= ids


def test_the_decoder_is_trained_on_latents_that_are_a_little_wrong() -> None:
    vae = Autoencoder(TINY.vae)
    loss, batch = DecoderLoss(vae), frame_draw(4)(seeded())
    trained = {name.partition(".")[0] for name, p in vae.named_parameters() if p.requires_grad}
    assert trained == {"decoder", "post_quant_conv"}
    with torch.no_grad():
        clean = loss(batch["pictures"], torch.zeros_like(batch["noise"]))
        # The first picture of a batch has clean latents, the others more and more noise.
        first = torch.zeros_like(batch["noise"])
        first[0] = batch["noise"][0]
        assert torch.equal(loss(batch["pictures"], first), clean)
        assert not torch.equal(loss(**batch), clean)


@pytest.mark.parametrize("make", ["vae", "text", "vision"])
def test_first_stages_have_finite_gradients(make: str) -> None:
    loss, draw = {
        "vae": lambda: (AutoencoderLoss(Autoencoder(TINY.vae)), frame_draw(2)),
        "text": lambda: (TextLoss(CompactText(TINY.text, toy_vocabulary()), 64), caption_draw(4)),
        "vision": lambda: (VisionLoss(TINY.vision), picture_draw(2)),
    }[make]()
    loss(**draw(seeded())).backward()
    gradients = [p.grad for p in loss.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_batch_without_labels_of_a_kind_has_a_finite_loss() -> None:
    loss = TextLoss(CompactText(TINY.text, toy_vocabulary()), 64)
    batch = caption_draw(2)(seeded())
    batch["target"] = torch.full_like(batch["target"], -100)
    assert torch.isfinite(loss(**batch))


@torch.no_grad()
def test_normalised_latents_decode_alike() -> None:
    torch.manual_seed(0)
    vae = Autoencoder(replace(TINY.vae, channels=16, channel_mult=(1, 1, 1, 1)))
    frames = still_frames(8, 1)
    before, spread = vae.encode(frames), vae.config.scale_factor
    decoded = vae.decode(before.mean * spread)
    normalise_latents(vae, frames)
    after = vae.encode(frames)
    latents = after.mean * spread
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-2)
    assert torch.allclose(vae.decode(latents), decoded, atol=1e-3)
    noise = (after.logvar - before.logvar).mean((0, 2, 3)) / 2
    assert torch.allclose(noise.exp() * before.mean.std((0, 2, 3)) * spread, torch.ones(4), rtol=2e-2)


@torch.no_grad()
def test_fresh_resamplers_tell_their_queries_apart() -> None:
    resampler = denoising_loss(0).resampler
    assert isinstance(resampler, Resampler)
    assert float(resampler.latents.std(1).min()) > 0.01
    assert tiny.STAGES[-1] == "export"
