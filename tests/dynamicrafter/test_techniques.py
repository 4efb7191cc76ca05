"""What can be added to sampling: each is off by default to the bit, and does what its page says when it is on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import normal, tiny_unet
from PIL import Image
from torch import Tensor

from dynamicrafter import api
from dynamicrafter.cli import main, statistics
from dynamicrafter.diffusion.denoiser import Evaluate
from dynamicrafter.diffusion.guidance import Branch, NoGuidance, TextGuidance, WeakGuidance, curve
from dynamicrafter.diffusion.projection import project_guidance
from dynamicrafter.diffusion.schedule import make_plan, make_schedule, timesteps
from dynamicrafter.diffusion.start import AnalyticInit, SourceClip, latent_mask
from dynamicrafter.errors import UsageError
from dynamicrafter.evaluation.latents import latent_statistics
from dynamicrafter.forecast import evaluations
from dynamicrafter.media.video import read_frames, write_clip
from dynamicrafter.model.conditioning import low_pass, with_image_noise
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.variants import SMALL, TINY, V256, V512, V1024, Mode
from dynamicrafter.model.weakening import pag_layers, stg_layers, weakened
from dynamicrafter.pipeline import KeyPictures, TorchModel, blended, generate
from dynamicrafter.sampling import calls_of, filter_images, guidance_of, run, weak_layers, weaken
from dynamicrafter.settings import Settings, make_settings
from dynamicrafter.shots import Means, check_settings

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 4, 4, 4, 4)
SCHEDULE = make_schedule(V512.diffusion)


def settings(mode: Mode = "animate", **chosen: Any) -> Settings:
    return make_settings(SMALL, mode, **{"steps": 4, "frames": 4, "prompt": "a boat", "eta": 0.0, **chosen})


class Known:
    """Evaluations of a network that knows the clean latents; the unconditional one is off by a tenth."""

    def __init__(self, clean: Tensor) -> None:
        self.clean = clean
        self.asked: list[tuple[Branch, ...]] = []

    def __call__(self, x: Tensor, timestep: int, branches: Sequence[Branch]) -> list[Tensor]:
        self.asked.append(tuple(branches))
        signal, noise, scale = SCHEDULE.level(timestep)
        found = []
        for branch in branches:
            clean = self.clean * (1 if branch == "full" else 0.9) * scale
            found.append((signal * x - clean) / noise)
        return found


def sampled(chosen: Settings, evaluate: Evaluate, **more: Any) -> Tensor:
    draws = iter([normal(*SHAPE, seed=seed) for seed in range(9)])
    return run(chosen, SMALL.diffusion, evaluate, lambda: next(draws), **more)


# Guidance over steps and frames


def test_a_curve_goes_through_its_points_evenly() -> None:
    assert curve([2], 3) == [2, 2, 2]
    assert curve([0, 1, 0], 5) == [0, 0.5, 1, 0.5, 0]
    assert curve([1, 3], 1) == [1]


def test_factors_multiply_the_strength_of_guidance() -> None:
    chosen = settings(cfg=5.0, guidance_rescale=0.7, cfg_steps="1,0.5,0", frames=3, steps=3)
    assert guidance_of(chosen, 3) == [TextGuidance(5.0, 0.7), TextGuidance(3.0, 0.7), NoGuidance()]
    (first, *_) = guidance_of(replace(chosen, cfg_frames="0,2"), 3)
    assert isinstance(first, TextGuidance) and isinstance(first.scale, Tensor)
    assert first.scale.flatten().tolist() == [1, 5, 9]
    unguided = guidance_of(replace(chosen, cfg_frames="0", image_cfg=3.0), 3)
    assert all("unconditional" not in each.branches or len(each.branches) == 1 for each in unguided)
    full, unconditional = normal(2, 4, 3, 5, 5), normal(2, 4, 3, 5, 5, seed=1)
    guided = TextGuidance(first.scale).combine([full, unconditional])
    for frame, scale in enumerate((1, 5, 9)):
        alone = TextGuidance(scale).combine([full[:, :, frame], unconditional[:, :, frame]])
        torch.testing.assert_close(guided[:, :, frame], alone)


# Projected guidance


def projected(eta: float, norm: float, momentum: float, times: int = 1) -> Tensor:
    """The guidance that remains of the last of several evaluations, as a difference of estimates."""
    wrapped = project_guidance(SCHEDULE, eta, norm, momentum)(
        lambda *_: [normal(*SHAPE), normal(*SHAPE, seed=1)]
    )
    runs = [wrapped(normal(*SHAPE, seed=2), 700, ("full", "unconditional")) for _ in range(times)]
    full, other = runs[-1]
    _, noise, scale = SCHEDULE.level(700)
    return -(full - other) * noise / scale


def test_neutral_projection_is_plain_guidance() -> None:
    _, noise, scale = SCHEDULE.level(700)
    plain = -(normal(*SHAPE) - normal(*SHAPE, seed=1)) * noise / scale
    torch.testing.assert_close(projected(1, 0, 0), plain, atol=1e-5, rtol=1e-5)


def test_without_its_parallel_part_guidance_is_at_right_angles_in_each_frame() -> None:
    signal, noise, scale = SCHEDULE.level(700)
    clean = (signal * normal(*SHAPE, seed=2) - noise * normal(*SHAPE)) / scale
    product = (projected(0, 0, 0) * clean).sum((1, 3, 4))
    assert product.abs().max() < 1e-4 < (projected(1, 0, 0) * clean).sum((1, 3, 4)).abs().max()


def test_the_norm_is_limited_in_each_frame_in_proportion_to_its_size() -> None:
    lengths = projected(1, 7, 0).square().sum((1, 3, 4)).sqrt()
    torch.testing.assert_close(lengths, torch.full_like(lengths, 7 * (64 / 10240) ** 0.5))


def test_momentum_adds_the_step_before_and_starts_anew_with_each_run() -> None:
    torch.testing.assert_close(projected(1, 0, -0.5, times=2), 0.5 * projected(1, 0, -0.5))
    torch.testing.assert_close(projected(1, 0, -0.5), projected(1, 0, 0))


# Start


@pytest.mark.parametrize("variant", [V256, V512, V1024])
@pytest.mark.parametrize("steps", [12, 25])
def test_a_network_that_knows_the_clip_ends_at_it_from_any_step(variant: Any, steps: int) -> None:
    schedule = make_schedule(variant.diffusion)
    clean = normal(*SHAPE, seed=5)
    plan = make_plan(schedule, "uniform_trailing", steps, 0.0).last(0.5)
    assert len(plan.timesteps) == round(steps / 2)

    def oracle(x: Tensor, timestep: int, branches: Sequence[Branch]) -> list[Tensor]:
        signal, noise, scale = schedule.level(timestep)
        rest = (x - signal * scale * clean) / noise
        return [signal * rest - noise * scale * clean if schedule.prediction == "v" else rest]

    chosen = make_settings(
        V512, "animate", steps=steps, eta=0.0, cfg=1.0, frames=4, denoise=0.5, contrast="restored"
    )
    out = run(chosen, variant.diffusion, oracle, lambda: normal(*SHAPE), source=SourceClip(clean))
    # What remains is the noise of the lowest level.
    assert (out - clean).std() < 0.05
    assert abs((out * clean).mean() / clean.square().mean() - 1) < 0.02


def test_denoising_in_full_starts_from_the_noise_itself() -> None:
    evaluate = Known(normal(*SHAPE, seed=5))
    source = SourceClip(normal(*SHAPE, seed=6))
    assert torch.equal(sampled(settings(), evaluate), sampled(settings(), evaluate, source=source))
    assert len(evaluate.asked) == 8
    sampled(settings(denoise=0.5), evaluate, source=source)
    assert len(evaluate.asked) == 10


def test_timesteps_below_a_start_time_are_the_published_ones() -> None:
    assert timesteps("uniform_trailing", 50, 940)[::-1][:2] == [939, 920]
    assert timesteps("uniform_trailing", 50, 940)[:2] == [18, 37]
    assert timesteps("uniform_trailing", 25, 940)[:2] == [37, 74]
    assert timesteps("linspace", 5, 940)[-1] == 939
    assert timesteps("uniform", 50, 1000) == timesteps("uniform", 50)


@pytest.mark.parametrize("published", [False, True])
def test_analytic_init_has_the_mean_and_variance_of_noisy_latents(published: bool) -> None:
    plan = make_plan(SCHEDULE, "uniform_trailing", 10, 0.0, 900)
    signal, noise, scale = SCHEDULE.level(899)
    factor = signal * (1 if published else scale)
    start = AnalyticInit((2.0, -1.0, 0.5, 0.0), 0.8, published).start(plan, normal(1, 4, 16, 40, 40))
    expected = torch.tensor([2.0, -1.0, 0.5, 0.0]) * factor
    torch.testing.assert_close(start.mean((0, 2, 3, 4)), expected, atol=0.02, rtol=0)
    assert abs(start.var((0, 2, 3, 4)).mean() - (noise**2 + 0.8 * factor**2)) < 0.02


def test_analytic_init_changes_nothing_where_there_is_no_signal() -> None:
    evaluate = Known(normal(*SHAPE, seed=5))
    plain = sampled(settings(spacing="uniform_trailing"), evaluate)
    assert torch.equal(
        plain, sampled(settings(spacing="uniform_trailing", analytic_init="1,2,3,4,5"), evaluate)
    )
    later = settings(spacing="uniform_trailing", start_time=900)
    changed = replace(later, analytic_init="1,2,3,4,5")
    assert not torch.equal(sampled(later, evaluate), sampled(changed, evaluate))


def test_a_note_says_that_analytic_init_changes_nothing() -> None:
    (note,) = api.notes_on(TINY, make_settings(TINY, "animate", analytic_init="model"))
    assert note == "analytic_init has no effect with start_time 1000, at which tiny has no signal"
    assert not api.notes_on(TINY, make_settings(TINY, "animate", analytic_init="model", start_time=900))


def test_statistics_are_those_of_all_values(tiny: TorchModel) -> None:
    clips = [
        (torch.rand(5, 64, 64, 3, generator=torch.Generator().manual_seed(n)) * 255).byte() for n in (0, 1)
    ]
    means, variance = latent_statistics(tiny, clips)
    pictures = torch.stack([clip[frame] for clip in clips for frame in (0, 4)]).movedim(-1, 1)
    posterior = tiny.vae.encode(pictures / 127.5 - 1)
    scale = TINY.vae.scale_factor
    latents = scale * posterior.mean.double()
    expected = latents.mean((0, 2, 3))
    spread = (latents - expected[:, None, None]).square().mean() + posterior.logvar.exp().mean() * scale**2
    assert means == pytest.approx(expected.tolist(), abs=1e-5)
    assert variance == pytest.approx(float(spread), rel=1e-4)


def test_the_command_prints_statistics_as_the_option_takes_them(
    tiny: TorchModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(statistics, "load", lambda *_, **__: tiny)
    clip = write_clip(torch.full((5, 64, 64, 3), 90, dtype=torch.uint8), tmp_path / "clip.mp4", 8, {})
    means, variance = latent_statistics(tiny, [read_frames(clip)])
    assert main(["statistics", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["clips"], told["means"], told["variance"]) == (1, means, variance)
    assert main(["statistics", str(tmp_path)]) == 0
    first, option = capsys.readouterr().out.splitlines()
    assert first == "1 clip(s) in the latents of tiny:"
    assert option == f"--analytic-init={told['analytic_init']}"
    given = make_settings(TINY, "animate", analytic_init=told["analytic_init"]).analytic_init
    assert [float(part) for part in given.split(",")] == pytest.approx([*means, variance], rel=1e-3)
    # Latents are those of the autoencoder.
    assert main(["statistics", str(tmp_path), "--lora", "style.safetensors"]) == 2
    assert "unrecognized arguments: --lora style.safetensors" in capsys.readouterr().err


# Noise on the image, filters


def test_image_noise_is_one_for_all_frames_and_leaves_frames_without_an_image() -> None:
    concat = torch.zeros(1, 4, 5, 3, 3)
    concat[:, :, [0, -1]] = normal(1, 4, 2, 3, 3)
    noise = normal(1, 4, 1, 3, 3, seed=1)
    noisy = with_image_noise(concat, noise)
    assert torch.equal(noisy[:, :, 1:-1], concat[:, :, 1:-1])
    torch.testing.assert_close(noisy[:, :, [0, -1]] - concat[:, :, [0, -1]], noise.expand(-1, -1, 2, -1, -1))


def test_low_pass_takes_the_detail_of_each_frame_and_nothing_else() -> None:
    concat = normal(1, 4, 3, 8, 12)
    concat[:, :, 1] = 0
    smooth = low_pass(concat, 0.25)
    assert smooth[:, :, 1].eq(0).all()
    assert smooth.std() < 0.5 * concat.std()
    torch.testing.assert_close(low_pass(torch.ones(1, 4, 1, 8, 8), 0.4), torch.ones(1, 4, 1, 8, 8))


def test_filtered_steps_guide_the_unfiltered_unconditional_output() -> None:
    def outputs(offset: float) -> Evaluate:
        return lambda x, timestep, branches: [x + offset + len(branch) for branch in branches]

    x = torch.zeros(1)
    wrapped = filter_images(outputs(100.0), {7})(outputs(0.0))
    guidance = TextGuidance(3.0)
    expected = 13 + 3 * (104 - 113)
    assert guidance.combine(wrapped(x, 7, guidance.branches)).item() == expected
    assert guidance.combine(wrapped(x, 6, guidance.branches)).item() == 13 + 3 * (4 - 13)
    assert wrapped(x, 7, ("full",))[0].item() == 104


# Weak networks


def test_only_the_named_attention_is_weakened_and_only_meanwhile() -> None:
    network = tiny_unet()
    assert [len(layers) for layers in (stg_layers(network), pag_layers(network))] == [3, 1]
    context = Context(normal(1, 77, 12), normal(1, 2, 3, 12, seed=1))
    arguments = (normal(1, 8, 2, 4, 4), torch.tensor([500]), context, torch.tensor([7]))
    usual = network(*arguments)
    layer = pag_layers(network)[0]
    tokens = normal(2, 5, 32)
    with weakened([layer]):
        torch.testing.assert_close(layer(tokens), layer.to_out[0](layer.to_v(tokens)))
        weak = network(*arguments)
    assert not torch.allclose(weak, usual)
    assert torch.equal(network(*arguments), usual)


def test_guidance_away_from_a_weak_network_is_added_before_the_rescale() -> None:
    chosen = settings(cfg=3.0, guidance_rescale=0.7, stg_scale=2.0, pag_scale=1.0)
    guidance = guidance_of(chosen, 4)[0]
    assert isinstance(guidance, WeakGuidance)
    assert guidance.branches == ("full", "unconditional", "stg", "pag")
    full, rest, stg, pag = (normal(*SHAPE, seed=seed) for seed in range(4))
    plain = replace(guidance, rescale=0.0).combine([full, rest, stg, pag])
    expected = rest + 3 * (full - rest) + 2 * (full - stg) + (full - pag)
    torch.testing.assert_close(plain, expected)
    guided = replace(guidance, rescale=1.0).combine([full, rest, stg, pag])
    torch.testing.assert_close(guided.std(), full.std())


def test_a_weak_branch_is_the_full_one_in_the_weakened_network() -> None:
    layer = pag_layers(tiny_unet())[0]
    usual = layer.attention
    asked: list[tuple[tuple[Branch, ...], bool]] = []

    def evaluate(x: Tensor, timestep: int, branches: Sequence[Branch]) -> list[Tensor]:
        asked.append((tuple(branches), layer.attention is usual))
        return [x for _ in branches]

    weaken({"pag": [layer]})(evaluate)(torch.zeros(1), 1, ("full", "unconditional", "pag"))
    assert asked == [(("full", "unconditional"), True), (("full",), False)]
    assert layer.attention is usual


def test_weak_networks_need_pytorch() -> None:
    assert weak_layers(settings(), object()) == {}
    with pytest.raises(
        UsageError, match="stg_scale and pag_scale .* must be a single one in PyTorch; use 0 for both, or one"
    ):
        weak_layers(settings(stg_scale=1.0), object())
    with pytest.raises(UsageError, match="stg_scale and pag_scale .* must be a single one in PyTorch"):
        check_settings([settings(pag_scale=1.0)], Means(backend="openvino"))


# Masks


def test_everything_free_is_the_default_to_the_bit_and_nothing_free_is_the_source() -> None:
    evaluate, clean = Known(normal(*SHAPE, seed=5)), normal(*SHAPE, seed=6)
    plain = sampled(settings(eta=1.0, guidance_rescale=0.0), evaluate)
    free, fixed = (SourceClip(clean, torch.full((1, 1, 1, 4, 4), value)) for value in (1.0, 0.0))
    assert torch.equal(sampled(settings(eta=1.0, guidance_rescale=0.0), evaluate, source=free), plain)
    kept = sampled(settings(contrast="restored"), evaluate, source=fixed)
    torch.testing.assert_close(kept, clean)
    half = SourceClip(clean, torch.ones(1, 1, 1, 4, 4).index_fill(-1, torch.tensor([0, 1]), 0.0))
    mixed = sampled(settings(eta=1.0, guidance_rescale=0.0), evaluate, source=half)
    assert torch.equal(mixed[..., 2:], plain[..., 2:])
    assert not torch.equal(mixed[..., :2], plain[..., :2])


def test_a_network_sees_the_source_at_its_noise_level_where_nothing_may_change() -> None:
    clean, noise = normal(*SHAPE, seed=6), normal(*SHAPE, seed=0)
    source = SourceClip(clean, torch.full((1, 1, 1, 4, 4), 0.5))
    seen: dict[int, Tensor] = {}

    def evaluate(x: Tensor, timestep: int, branches: Sequence[Branch]) -> list[Tensor]:
        seen[timestep] = x
        return Known(clean * 0)(x, timestep, branches)

    sampled(settings(), evaluate, source=source)
    early, *_, late = sorted(seen, reverse=True)
    torch.testing.assert_close(seen[early], SCHEDULE.noised(clean, noise, early))
    # Half way through the steps, half of it becomes free.
    assert not torch.allclose(seen[late], SCHEDULE.noised(clean, noise, late), atol=1e-3)


def test_the_mask_of_latents_reaches_one_cell_further() -> None:
    pixels = torch.zeros(1, 1, 40, 40)
    pixels[..., 16:24, 16:24] = 1
    found = latent_mask(pixels, 8)[0, 0, 0]
    assert found[1:4, 1:4].eq(1).all() and found.sum() == 9
    assert latent_mask(torch.ones(1, 1, 16, 16), 8).eq(1).all()


def test_pixels_outside_a_mask_are_the_source_s_own() -> None:
    frames, kept = torch.full((2, 1, 3, 3), 10, dtype=torch.uint8), torch.full((1, 1, 3, 3), 200.0)
    (out,) = blended(iter([frames]), kept, torch.tensor([[0.0, 0.5, 1.0]]))
    assert out[0, 0, :, 0].tolist() == [200, 105, 10]


@pytest.fixture(scope="module")
def tiny() -> TorchModel:
    return api.load("tiny", device="cpu")


def test_masks_and_techniques_that_are_off_change_no_frame(tiny: TorchModel) -> None:
    chosen = make_settings(TINY, "animate", steps=2, frames=3, cfg=1.5, prompt="a red circle moves right")
    image = (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 255).round() / 127.5 - 1
    plain = generate(tiny, KeyPictures(image), [chosen])
    whole = generate(tiny, KeyPictures(image, mask=torch.ones(1, 1, 64, 64)), [chosen])
    assert torch.equal(plain, whole)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    half = generate(tiny, KeyPictures(image, mask=mask), [chosen])
    expected = ((image[0] + 1) * 127.5).round().byte().movedim(0, -1)
    assert torch.equal(half[0, :, :, :32], expected[None, :, :32].expand(3, -1, -1, -1))
    assert not torch.equal(half[0, -1, :, 32:], expected[:, 32:])
    more = {"stg_scale": 1.0, "pag_scale": 1.0, "alg_ratio": 0.5, "image_noise": 0.1, "apg_eta": 0.0}
    for name, value in more.items():
        assert not torch.equal(
            generate(tiny, KeyPictures(image), [replace(chosen, **{name: value})]), plain
        ), name
    clip = image[:, :, None].expand(-1, -1, 3, -1, -1)
    still = generate(tiny, KeyPictures(image, clip=clip), [replace(chosen, denoise=0.5)])
    held = generate(tiny, KeyPictures(image), [replace(chosen, denoise=0.5)])
    assert (still.int() - held.int()).abs().float().mean() < 2


def test_an_interpolation_has_no_image_to_hold(tiny: TorchModel) -> None:
    chosen = make_settings(TINY, "interpolate", steps=2, frames=3, denoise=0.5)
    with pytest.raises(
        UsageError, match="need a clip to start from when two images are interpolated; pass video"
    ):
        generate(tiny, KeyPictures(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)), [chosen])


# Cost, bad input


def test_the_cost_in_evaluations_is_counted() -> None:
    assert calls_of(settings(cfg=1.0)) == [1] * 4
    assert calls_of(settings(cfg=3.0, cfg_steps="1,0")) == [2, 2, 2, 1]
    assert calls_of(settings(cfg=3.0, stg_scale=1.0, pag_scale=1.0)) == [4] * 4
    assert calls_of(settings(cfg=3.0, alg_ratio=0.4, alg_end=0.34)) == [3, 3, 2, 2]
    assert calls_of(settings(cfg=3.0, denoise=0.5)) == [2, 2]
    assert evaluations(settings(cfg=3.0, denoise=0.5)) == 4 * 4 * 64


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"cfg_steps": "1,,2"},
            "cfg_steps must be 1 to 64 numbers from 0 to 4, separated by commas, but '1,,2' was",
        ),
        (
            {"cfg_frames": "1,5"},
            "cfg_frames must be 1 to 64 numbers from 0 to 4, separated by commas, but '1,5' was",
        ),
        (
            {"analytic_init": "1,2"},
            "analytic_init must be model or 5 numbers, separated by commas, but '1,2' was",
        ),
        ({"analytic_init": "1,2,3,4,nan"}, "analytic_init must be model or 5 numbers"),
        (
            {"analytic_init": "model"},
            "no latent statistics of small; measure them with dynamicrafter.evaluation",
        ),
        ({"analytic_init": "0,0,0,0,1", "denoise": 0.5}, "denoise 0.5 starts from a clip; use one of them"),
        ({"start_time": 3}, "steps must be at most start_time, but 4 and 3 were given; use fewer steps"),
        ({"denoise": 0}, "denoise must be 0.01 to 1, but 0 was given"),
        ({"apg_eta": 0.5, "image_cfg": 2.0}, "but image_cfg adds a second; omit image_cfg or all three"),
        ({"contrast": "restored", "sampler": "euler"}, "but sampler euler was given; use contrast released"),
        ({"alg_ratio": 2}, "alg_ratio must be 0.05 to 1, but 2 was given"),
    ],
)
def test_what_cannot_be_is_said(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings(**chosen)


def test_sources_and_masks_that_do_not_fit_are_refused(tiny: TorchModel, tmp_path: Path) -> None:
    image = torch.zeros(64, 64, 3, dtype=torch.uint8)
    with pytest.raises(
        UsageError, match="mask has 32x64 pixels, but the image has 64x64; use a mask of the image's size"
    ):
        api.animate(tiny, image, mask=image[:, :32])
    with pytest.raises(
        UsageError, match="to start from has 2 frames, but 16 are generated; use a longer clip, or fewer"
    ):
        api.animate(tiny, image, video=torch.stack([image] * 2), denoise=0.5)


def test_a_clip_with_a_mask_and_a_technique_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(64, 64, 3)
    mask[:, 32:] = 1
    for name, values in (("a.png", noise), ("mask.png", mask), ("other.png", mask[:32])):
        Image.fromarray((values * 255).byte().numpy()).save(name)
    command = ["animate", "a.png", "--steps", "2", "--frames", "2", "-o", "clip/"]
    more = ["--mask", "mask.png", "--image-noise", "0.1", "--cfg-steps", "1,0", "--cfg", "2"]
    assert main([*command, *more]) == 0, capsys.readouterr().err
    made = read_frames("clip")
    picture = torch.as_tensor((noise * 255).byte())
    assert torch.equal(made[:, :, :32], picture[None, :, :32].expand(2, -1, -1, -1))
    assert main(["again", "clip", "-o", "again/"]) == 0, capsys.readouterr().err
    assert torch.equal(read_frames("again"), made)
    Path("mask.png").unlink()
    for words, message in (
        (["again", "clip"], "the clip's mask mask.png was not found in .*; pass --mask FILE"),
        (
            [*command, "--mask", "other.png"],
            "the mask has 64x32 pixels, but the image has 64x64; use a mask of the",
        ),
        (
            [*command, "--video", "a.mp4"],
            "a clip to start from has no effect with denoise 1 and without a mask; use",
        ),
        (
            ["interpolate", "a.png", "a.png", "--denoise", "0.5"],
            "two images are interpolated; pass --video FILE",
        ),
        (
            [*command, "--cfg-steps", "x"],
            "cfg_steps must be 1 to 64 numbers from 0 to 4, separated by commas, but 'x'",
        ),
    ):
        assert main(words) != 0
        assert re.search(message, capsys.readouterr().err), words
