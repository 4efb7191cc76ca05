"""The arrows composed: shapes, order, progress, and what does not depend on the neighbours in a batch."""

from __future__ import annotations

import itertools
import logging
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from dynamicrafter.api import load
from dynamicrafter.diffusion.config import SAMPLER_MEANINGS
from dynamicrafter.diffusion.denoiser import Denoise, Estimate
from dynamicrafter.diffusion.finite import finite_steps
from dynamicrafter.diffusion.samplers import SAMPLERS, Step
from dynamicrafter.diffusion.schedule import Plan
from dynamicrafter.errors import Cancelled, DynamiCrafterError, UsageError
from dynamicrafter.model.autoencoder import Autoencoder
from dynamicrafter.model.placement import Placement
from dynamicrafter.model.protocols import Context, Network, NetworkWrapper, Posterior
from dynamicrafter.model.variants import SMALL, Mode
from dynamicrafter.pipeline import (
    KeyPictures,
    Model,
    decode,
    encode,
    generate,
    generate_each,
    latent_shape,
    make_generators,
    sample,
    to_frames,
)
from dynamicrafter.settings import Settings, make_settings
from dynamicrafter.weights.random_model import write_random_checkpoint


@pytest.fixture(scope="module")
def model(weights_home: Path) -> Model:
    (file,) = weights_home.glob("random-*.safetensors")
    return load(file, device="cpu")


@pytest.fixture(autouse=True)
def quick(one_thread: None) -> None:
    """Every test here runs small networks."""


def settings(mode: Mode = "animate", **chosen: Any) -> Settings:
    return make_settings(SMALL, mode, **{"steps": 2, "frames": 4, "prompt": "a boat", **chosen})


def each(chosen: Settings, *seeds: int) -> list[Settings]:
    return [replace(chosen, seed=seed) for seed in seeds]


def picture(seed: int, height: int = 64, width: int = 64) -> Tensor:
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")


def level_distance(one: Tensor, other: Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


# Shapes


@pytest.mark.parametrize(
    ("mode", "frames", "length"),
    [("animate", 1, 1), ("animate", 5, 5), ("animate", 16, 16), ("interpolate", 2, 2), ("loop", 3, 2)],
)
def test_frames_of_every_mode_and_length(model: Model, mode: Mode, frames: int, length: int) -> None:
    last = picture(1, 64, 128) if mode == "interpolate" else None
    chosen = settings(mode, frames=frames, size=(128, 64), steps=1)
    clips = generate(model, KeyPictures(picture(0, 64, 128), last), each(chosen, 3))
    assert clips.shape == (1, length, 64, 128, 3)
    assert clips.dtype == torch.uint8
    assert clips.is_contiguous() or mode == "loop"


def test_frames_leave_memory_as_they_are_read(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the decoder's frames, in floating point, none but the last is held."""
    alive: list[weakref.ref[Tensor]] = []
    held: list[int] = []
    genuine = model.vae.frames

    def watched(latents: Tensor, shown: Tensor | None = None) -> Iterator[Tensor]:
        for part in genuine(latents, shown):
            alive.append(weakref.ref(part))
            yield part
            del part
            held.append(sum(one() is not None for one in alive))

    chosen, pictures = each(settings(frames=8, steps=1), 1, 2), KeyPictures(picture(0).repeat(2, 1, 1, 1))
    whole = generate(model, pictures, chosen)
    monkeypatch.setattr(model.vae, "frames", watched)
    for clip, parts in zip(whole, generate_each(model, pictures, chosen), strict=True):
        for index, part in enumerate(parts):
            assert torch.equal(part, clip[index : index + 1])
    assert len(held) == 16 and max(held) <= 1
    held.clear()
    assert torch.equal(generate(model, pictures, chosen), whole)
    assert len(held) == 16 and max(held) <= 1


def test_stages_have_the_stated_shapes(model: Model) -> None:
    chosen = settings(size=(128, 64), fs=9)
    pictures = KeyPictures(torch.cat([picture(0, 64, 128), picture(1, 64, 128)]))
    generators = make_generators(model, each(chosen, 1, 2))
    conditioning = encode(model, pictures, each(chosen, 1, 2), generators)
    assert conditioning.concat.shape == (2, 4, 4, 8, 16)
    assert conditioning.full.text.shape[:2] == (2, 77)
    assert conditioning.fs.tolist() == [9, 9]
    latents = sample(model, conditioning, chosen, generators)
    assert latents.shape == (2, *latent_shape(SMALL, chosen)[:1], 4, *latent_shape(SMALL, chosen)[1:])
    assert latents.dtype == torch.float32
    video = decode(model, latents, pictures)
    assert video.shape == (2, 3, 4, 64, 128)
    assert video.device.type == "cpu" and video.dtype == torch.float32


def test_interpolation_places_its_pictures_at_the_ends(model: Model) -> None:
    chosen = settings("interpolate", frames=5)
    pictures = KeyPictures(picture(0), picture(1))
    concat = encode(model, pictures, [chosen], make_generators(model, [chosen])).concat
    assert not concat[:, :, 1:-1].any()
    assert concat[:, :, 0].any() and concat[:, :, -1].any()
    assert not torch.equal(concat[:, :, 0], concat[:, :, -1])


def test_animation_shows_its_picture_to_every_frame(model: Model) -> None:
    chosen = settings()
    concat = encode(model, KeyPictures(picture(0)), [chosen], make_generators(model, [chosen])).concat
    assert all(torch.equal(concat[:, :, 0], concat[:, :, frame]) for frame in range(1, 4))


@pytest.mark.parametrize(
    ("value", "level"), [(-1.0, 0), (0.0, 127), (1.0, 255), (-9.0, 0), (9.0, 255), (0.999, 254)]
)
def test_frames_are_cut_off_as_in_the_original(value: float, level: int) -> None:
    frames = to_frames(torch.full((1, 3, 2, 4, 6), value))
    assert frames.shape == (1, 2, 4, 6, 3)
    assert (frames == level).all()


# Other implementations of the networks


class Codec:
    """Pictures to latents of their mean colour, and back."""

    def encode(self, pictures: Tensor) -> Posterior:
        mean = torch.nn.functional.avg_pool2d(pictures.mean(1, keepdim=True), 8).expand(-1, 4, -1, -1)
        return Posterior(mean, torch.full_like(mean, -torch.inf))

    def frames(self, latents: Tensor, pictures: Tensor | None = None) -> Iterator[Tensor]:
        yield torch.nn.functional.interpolate(latents[:, :3], scale_factor=8.0)


STAND_INS: dict[str, Any] = {
    "text": lambda prompts: torch.zeros(len(prompts), 77, 64),
    "vision": lambda pictures: torch.zeros(len(pictures), 65, 64),
    "resampler": lambda tokens: torch.zeros(len(tokens), 256, 64),
    "vae": Codec(),
    "unet": lambda x, timesteps, context, fs: x[:, :4],
}


@pytest.mark.parametrize("network", [*STAND_INS, "all"])
def test_anything_that_takes_and_gives_the_same_can_stand_for_a_network(model: Model, network: str) -> None:
    """Neither PyTorch modules nor names of ours are asked for."""
    others = STAND_INS if network == "all" else {network: STAND_INS[network]}
    clips = generate(replace(model, **others), KeyPictures(picture(0)), [settings(cfg=2.0)])
    assert clips.shape == (1, 4, 64, 64, 3)


# Seeds and batches


def test_clips_of_a_batch_may_differ_in_what_they_are_told(model: Model) -> None:
    """Each is the clip that it is alone, but for rounding."""
    told = [
        settings(prompt="a boat", seed=5, fs=8),
        settings(prompt="a house", negative="rain", seed=6, fs=30),
    ]
    pictures = torch.cat([picture(0), picture(1)])
    together = generate(model, KeyPictures(pictures), told)
    for index, chosen in enumerate(told):
        alone = generate(model, KeyPictures(pictures[index : index + 1]), [chosen])
        assert level_distance(together[index : index + 1], alone) <= 1


@pytest.mark.parametrize(
    "other", [{"steps": 3}, {"frames": 5}, {"cfg": 3.0}, {"sampler": "ddim", "eta": 0.5}]
)
def test_clips_of_other_settings_share_no_batch(model: Model, other: dict[str, Any]) -> None:
    pictures = KeyPictures(torch.cat([picture(0), picture(1)]))
    with pytest.raises(UsageError, match="may differ in seed, prompt, negative prompt and fs only"):
        generate(model, pictures, [settings(), settings(**other)])


def test_wrappers_go_around_the_network_and_the_denoiser(model: Model) -> None:
    """Each is asked once for every evaluation or step, the later one around the earlier."""
    chosen, seen = settings(cfg=3.0), list[str]()

    def network_wrapper(name: str) -> NetworkWrapper:
        def wrap(network: Network) -> Network:
            def call(x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
                seen.append(name)
                return network(x, timesteps, context, fs)

            return call

        return wrap

    def denoise_wrapper(denoise: Denoise) -> Denoise:
        def call(x: Tensor, timestep: int) -> Estimate:
            seen.append("denoise")
            return denoise(x, timestep)

        return call

    def run(**wrappers: Any) -> Tensor:
        generators = make_generators(model, [chosen])
        conditioning = encode(model, KeyPictures(picture(0)), [chosen], generators)
        return sample(model, conditioning, chosen, generators, **wrappers)

    wrapped = run(
        network_wrappers=[network_wrapper("inner"), network_wrapper("outer")],
        denoise_wrappers=[denoise_wrapper],
    )
    # Both branches of a small clip are one evaluation.
    assert seen == ["denoise", "outer", "inner"] * 2
    assert torch.equal(wrapped, run())


@pytest.mark.parametrize(("sampler", "calls"), [("ddim", "1221"), ("heun", "1442")])
def test_guidance_in_an_interval_takes_one_evaluation_in_all_other_steps(
    model: Model, sampler: str, calls: str
) -> None:
    """By timestep; the second evaluation of Heun's steps is at the timestep of the next one."""
    chosen = settings(sampler=sampler, steps=4, cfg=3.0, guidance_start=0.25, guidance_end=0.75)
    seen: list[int] = []

    def counted(network: Network) -> Network:
        def call(x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
            # The branches of a small clip are one batch.
            seen.extend(timesteps.int().tolist())
            return network(x, timesteps, context, fs)

        return call

    def run(chosen: Settings) -> Tensor:
        generators = make_generators(model, [chosen])
        conditioning = encode(model, KeyPictures(picture(0)), [chosen], generators)
        return sample(model, conditioning, chosen, generators, network_wrappers=[counted])

    limited = run(chosen)
    assert "".join(str(len(list(same))) for _, same in itertools.groupby(seen)) == calls
    everywhere = run(replace(chosen, guidance_start=0.0, guidance_end=1.0))
    assert not torch.equal(limited, everywhere)


@pytest.mark.parametrize("sampler", SAMPLER_MEANINGS)
def test_every_sampler_makes_the_same_clip_of_a_seed_again(model: Model, sampler: str) -> None:
    chosen = [settings(sampler=sampler, steps=3, seed=seed) for seed in (5, 5, 6)]
    clips = [generate(model, KeyPictures(picture(0)), [one]) for one in chosen]
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


def test_a_sampler_added_to_the_table_is_one_to_choose(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function and its meaning are all that another sampler takes."""

    def standing_still(
        denoise: Denoise, plan: Plan, x: Tensor, draw: object, callback: object = None
    ) -> Tensor:
        return denoise(x, plan.timesteps[-1]).x0

    monkeypatch.setitem(SAMPLERS, "still", standing_still)
    monkeypatch.setitem(SAMPLER_MEANINGS, "still", "one evaluation")
    chosen = settings(sampler="still")
    generators = make_generators(model, [chosen])
    conditioning = encode(model, KeyPictures(picture(0)), [chosen], generators)
    assert sample(model, conditioning, chosen, generators).shape == (1, 4, 4, 8, 8)


@pytest.mark.parametrize("mode", ["animate", "interpolate", "loop"])
def test_a_clip_does_not_depend_on_its_neighbours(model: Model, mode: Mode) -> None:
    """But for rounding: other batch sizes add up in another order."""
    firsts = torch.cat([picture(0), picture(1)])
    lasts = torch.cat([picture(2), picture(3)]) if mode == "interpolate" else None
    together = generate(model, KeyPictures(firsts, lasts), each(settings(mode), 5, 6))
    for index, seed in enumerate((5, 6)):
        mine = slice(index, index + 1)
        alone = KeyPictures(firsts[mine], None if lasts is None else lasts[mine])
        assert level_distance(together[mine], generate(model, alone, each(settings(mode), seed))) <= 1
    assert level_distance(together[0], together[1]) > 20


def test_the_seed_decides_and_nothing_global(model: Model) -> None:
    clips: list[Tensor] = []
    for seed in (5, 5, 6):
        torch.manual_seed(len(clips))
        before = torch.get_rng_state()
        clips.append(generate(model, KeyPictures(picture(0)), each(settings(), seed)))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


def test_the_given_pictures_are_not_changed(model: Model) -> None:
    first, last = picture(0), picture(1)
    generate(model, KeyPictures(first, last), each(settings("interpolate"), 1))
    assert torch.equal(first, picture(0)) and torch.equal(last, picture(1))


def test_noise_comes_from_the_cpu_unless_asked_otherwise(model: Model) -> None:
    assert [g.device.type for g in make_generators(model, each(settings(), 1, 2))] == ["cpu", "cpu"]
    (generator,) = make_generators(model, [settings(noise_device="device")])
    assert generator.device == model.device


# While it runs


def test_progress_tells_every_stage_from_beginning_to_end(model: Model) -> None:
    told: list[tuple[str, int, int]] = []
    generate(
        model,
        KeyPictures(torch.cat([picture(0), picture(1)])),
        each(settings(), 1, 2),
        progress=lambda *values: told.append(values),
    )
    assert told == [
        ("encode", 0, 1),
        ("encode", 1, 1),
        *(("sample", done, 2) for done in range(3)),
        *(("decode", done, 8) for done in range(1, 9)),
    ]


def test_a_callback_sees_every_step(model: Model) -> None:
    steps: list[Step] = []
    generate(model, KeyPictures(picture(0)), [settings(steps=3)], callback=steps.append)
    assert [(step.index, step.total) for step in steps] == [(0, 3), (1, 3), (2, 3)]
    assert all(step.x.shape == step.x0.shape == (1, 4, 4, 8, 8) for step in steps)


@pytest.mark.parametrize("stage", ["encode", "sample", "decode"])
def test_progress_may_stop_the_work_at_once(model: Model, stage: str) -> None:
    told: list[str] = []

    def stop(at: str, done: int, total: int) -> None:
        told.append(at)
        if at == stage and done:
            raise Cancelled(f"enough in {at}")

    with pytest.raises(Cancelled, match=f"^enough in {stage}$"):
        generate(model, KeyPictures(picture(0)), [settings()], progress=stop)
    assert told.count("decode") == (stage == "decode")


LAST_LAYERS = {
    "text encoder": "text.ln_final",
    "image encoder": "vision.transformer.resblocks.1.mlp.c_proj",
    "resampler": "resampler.norm_out",
    "denoising network": "unet.out.2",
    "autoencoder": "vae.decoder.conv_out",
}


def spoilt(model: Model, part: str, value: float) -> Model:
    """The model with the bias of the last layer of one network changed."""
    name, _, layer = LAST_LAYERS[part].partition(".")
    found = cast(torch.nn.Module, getattr(model, name)).get_submodule(layer)
    found.bias = torch.nn.Parameter(torch.full_like(cast(Tensor, found.bias), value), requires_grad=False)
    return model


@pytest.mark.parametrize("part", LAST_LAYERS)
def test_values_that_are_not_finite_are_an_error_of_their_network(weights_home: Path, part: str) -> None:
    (file,) = weights_home.glob("random-*.safetensors")
    model = spoilt(load(file, device="cpu"), part, torch.nan)
    where = " at step 1 of 2, timestep 999" if part == "denoising network" else ""
    said = f"^the {part}'s output is not finite in float32{where}; pass a lower cfg, or use a checkpoint"
    with pytest.raises(DynamiCrafterError, match=said):
        generate(model, KeyPictures(picture(0)), [settings()])


def test_latents_that_grow_until_they_are_not_finite_are_told_with_their_step() -> None:
    told: list[int] = []
    check = finite_steps(torch.float16, lambda step: told.append(step.index))
    for index, largest in enumerate((4.0, 31234.5)):
        x = torch.tensor([0.0, -largest])
        check(Step(index, 50, 999 - 20 * index, x, x))
    x = torch.tensor([1.0, torch.inf])
    said = "not finite in float16 at step 3 of 50, timestep 959, where the largest latent was 3.12e\\+04 a step before"
    with pytest.raises(DynamiCrafterError, match=said):
        check(Step(2, 50, 959, x, x))
    assert told == [0, 1]


def test_sixteen_bits_are_named_as_the_cause(weights_home: Path) -> None:
    (file,) = weights_home.glob("random-*.safetensors")
    model = spoilt(load(file, device="cpu", dtype="bfloat16"), "denoising network", torch.inf)
    with pytest.raises(
        DynamiCrafterError,
        match='finite in bfloat16 at step 1 of 2, timestep 999; load the model with dtype="float32" or "b',
    ):
        generate(model, KeyPictures(picture(0)), [settings()])


@pytest.mark.parametrize("whole", [False, True])
def test_frames_that_overflow_float16_are_decoded_again_in_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """So that a sampled clip is not lost, also by a decoder of all frames at once; the log says it once."""
    variant = replace(SMALL, name="wide", vae=replace(SMALL.vae, video_decoder=whole))
    write_random_checkpoint(tmp_path / "wide.safetensors", variant)
    model = load(tmp_path / "wide.safetensors", device="cpu", dtype="float16")
    vae = cast(Autoencoder, model.vae)
    latents = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    pictures = KeyPictures(picture(0, 32, 32).half(), picture(1, 32, 32).half())
    narrow = decode(model, latents, pictures)
    wide = decode(replace(model, vae=vae.in_float32(model.device), dtype=torch.float32), latents, pictures)
    assert 0 < (narrow - wide).abs().max() < 0.02
    finite, frames_of = 0 if whole else 1, vae.frames

    def overflowing(z: Tensor, shown: Tensor | None = None) -> Iterator[Tensor]:
        for index, part in enumerate(frames_of(z, shown)):
            yield part if index < finite else torch.full_like(part, torch.inf)

    monkeypatch.setattr(vae, "frames", overflowing)
    weights = [id(parameter) for parameter in vae.parameters()]
    placed = replace(model, placement=Placement([vae], model.device))
    with caplog.at_level(logging.WARNING, "dynamicrafter"):
        frames = decode(placed, latents, pictures)
    assert torch.equal(frames, torch.cat([narrow[:, :, :finite], wide[:, :, finite:]], dim=2))
    (said,) = caplog.messages
    assert said.startswith(
        "the autoencoder's output is not finite in float16, so it decodes in float32, which"
    )
    # What was on the device has left it.
    assert [id(parameter) for parameter in vae.parameters()] == weights


def test_a_damaged_decoder_is_told_after_float32_was_tried(weights_home: Path) -> None:
    (file,) = weights_home.glob("random-*.safetensors")
    model = spoilt(load(file, device="cpu", dtype="float16"), "autoencoder", torch.nan)
    with pytest.raises(
        DynamiCrafterError, match="^the autoencoder's output is not finite in float32; pass a lo"
    ):
        decode(model, torch.zeros(1, 4, 1, 8, 8))


def test_a_video_decoder_gets_the_key_pictures(tmp_path: Path) -> None:
    variant = replace(SMALL, name="toon", vae=replace(SMALL.vae, video_decoder=True))
    write_random_checkpoint(tmp_path / "toon.safetensors", variant)
    model = load(tmp_path / "toon.safetensors", device="cpu")
    latents = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = [torch.cat([picture(index), picture(index + 1)]) for index in (0, 2)]
    told: list[tuple[int, int]] = []
    one = decode(model, latents, KeyPictures(*pictures), lambda *values: told.append(values))
    assert one.shape == (2, 3, 3, 64, 64)
    assert told == [(3, 6), (6, 6)]
    other_end = decode(model, latents, KeyPictures(pictures[0], pictures[0]))
    assert not torch.allclose(one, other_end)
    assert not torch.allclose(one, decode(model, latents))
