"""The network's output becomes x0 and noise, and every branch of a guidance gets its own conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from networks import calls_of, conditioning, normal, relative_difference, tiny_unet
from torch import Tensor

from dynamicrafter.diffusion.config import DiffusionConfig
from dynamicrafter.diffusion.denoiser import Denoise, make_denoiser, translate
from dynamicrafter.diffusion.guidance import Branch, Guidance, NoGuidance, TextGuidance, TextImageGuidance
from dynamicrafter.diffusion.schedule import Schedule, make_plan, make_schedule
from dynamicrafter.model import memory
from dynamicrafter.model.conditioning import Conditioning
from dynamicrafter.model.protocols import Context, Network
from dynamicrafter.model.variants import V256, V512
from dynamicrafter.pipeline import evaluator
from dynamicrafter.sampling import guidance_of
from dynamicrafter.settings import make_settings

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (2, 4, 2, 4, 4)
VELOCITY, NOISE = make_schedule(V512.diffusion), make_schedule(V256.diffusion)
VELOCITY_PLAIN = make_schedule(replace(V256.diffusion, prediction="v"))


def denoiser(
    network: Network,
    schedule: Schedule,
    conditions: Conditioning,
    guidance: Guidance,
    dtype: torch.dtype = torch.float32,
) -> Denoise:
    return make_denoiser(evaluator(network, conditions, dtype), schedule, guidance)


def made_up(x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
    """An output in which every input shows."""
    level = context.text.mean(dim=(1, 2)) + 2 * context.image.mean(dim=(1, 2, 3)) + timesteps + 1000 * fs
    return x[:, :4] + 3 * x[:, 4:] + level[:, None, None, None, None].to(x.dtype)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every clip counts as too large for its branches to be one batch."""
    monkeypatch.setattr(memory, "ONE_BATCH", 0)


@pytest.mark.parametrize("timestep", [0, 1, 399, 500, 998])
def test_velocity_gives_back_what_made_the_latents(timestep: int) -> None:
    """x = a x0 + s noise and v = a noise - s x0, with a^2 + s^2 = 1."""
    x0, noise = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    abar = VELOCITY.alphas_cumprod[timestep].double()
    signal, spread = abar.sqrt(), (1 - abar).sqrt()
    x = (signal * x0 + spread * noise).float()
    velocity = (signal * noise - spread * x0).float()
    estimate = translate(velocity, x, VELOCITY, timestep)
    assert relative_difference(estimate.x0, x0) < 1e-5
    assert relative_difference(estimate.noise, noise) < 1e-5


@pytest.mark.parametrize("timestep", [0, 1, 399, 999])
def test_predicted_noise_gives_back_what_made_the_latents(timestep: int) -> None:
    x0, noise = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    abar = NOISE.alphas_cumprod[timestep].double()
    x = (abar.sqrt() * x0 + (1 - abar).sqrt() * noise).float()
    estimate = translate(noise, x, NOISE, timestep)
    assert torch.equal(estimate.noise, noise)
    # At the end x holds 7 % signal, so rounding in x is 15 times as large in x0.
    assert relative_difference(estimate.x0, x0) < 1e-5


def test_at_pure_noise_the_velocity_alone_says_what_the_latents_are() -> None:
    x, velocity = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    estimate = translate(velocity, x, VELOCITY, 999)
    assert torch.equal(estimate.x0, -velocity)
    assert torch.equal(estimate.noise, x)


def test_prediction_and_noise_levels_are_separate_choices() -> None:
    assert VELOCITY_PLAIN.prediction == "v"
    assert torch.equal(VELOCITY_PLAIN.betas, make_schedule(DiffusionConfig("eps", False, None)).betas)


GUIDANCES: list[tuple[Guidance, list[str]]] = [
    (NoGuidance(), ["full"]),
    (TextGuidance(3.0), ["full", "unconditional"]),
    (TextImageGuidance(3.0, 1.5), ["full", "unconditional", "image_only"]),
]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(("guidance", "branches"), GUIDANCES, ids=lambda v: type(v).__name__)
def test_each_branch_is_evaluated_once_with_its_own_conditions(
    guidance: Guidance, branches: list[str]
) -> None:
    conditions = conditioning(batch=2)
    seen: list[tuple[object, ...]] = []
    x = normal(*SHAPE)
    denoiser(calls_of(made_up, seen), VELOCITY, conditions, guidance)(x, 321)
    assert len(seen) == len(branches)
    for (joined, timesteps, context, fs), branch in zip(seen, branches, strict=True):
        assert isinstance(joined, Tensor) and isinstance(timesteps, Tensor) and isinstance(context, Context)
        assert torch.equal(joined, torch.cat([x, conditions.concat], dim=1))
        assert timesteps.dtype == torch.int64
        assert timesteps.tolist() == [321, 321]
        assert context == getattr(conditions, branch)
        assert fs is conditions.fs


@pytest.mark.parametrize(("guidance", "branches"), GUIDANCES, ids=lambda v: type(v).__name__)
def test_the_branches_of_a_small_clip_are_one_batch(guidance: Guidance, branches: list[str]) -> None:
    conditions = conditioning(batch=2)
    seen: list[tuple[object, ...]] = []
    x = normal(*SHAPE)
    denoiser(calls_of(made_up, seen), VELOCITY, conditions, guidance)(x, 321)
    ((joined, timesteps, context, fs),) = seen
    assert isinstance(joined, Tensor) and isinstance(timesteps, Tensor) and isinstance(context, Context)
    assert timesteps.tolist() == [321] * 2 * len(branches)
    for index, branch in enumerate(branches):
        part = slice(2 * index, 2 * index + 2)
        own = getattr(conditions, branch)
        assert torch.equal(joined[part], torch.cat([x, conditions.concat], dim=1))
        assert torch.equal(context.text[part], own.text)
        assert torch.equal(context.image[part], own.image)
        assert isinstance(fs, Tensor) and torch.equal(fs[part], conditions.fs)


@pytest.mark.parametrize("guidance", [g for g, _ in GUIDANCES], ids=lambda v: type(v).__name__)
def test_branches_in_one_batch_give_the_same_as_one_after_the_other(
    guidance: Guidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise = denoiser(tiny_unet(), VELOCITY, conditioning(batch=2), guidance)
    together = denoise(normal(*SHAPE), 500)
    monkeypatch.setattr(memory, "ONE_BATCH", 0)
    apart = denoise(normal(*SHAPE), 500)
    assert relative_difference(together.x0, apart.x0) < 1e-5
    assert relative_difference(together.noise, apart.noise) < 1e-5


@pytest.mark.parametrize("schedule", [VELOCITY, NOISE], ids=["v", "eps"])
@pytest.mark.parametrize("guidance", [g for g, _ in GUIDANCES], ids=lambda v: type(v).__name__)
def test_outputs_are_combined_and_then_translated(schedule: object, guidance: Guidance) -> None:
    chosen = VELOCITY if schedule is VELOCITY else NOISE
    conditions, x = conditioning(batch=2), normal(*SHAPE)
    estimate = denoiser(made_up, chosen, conditions, guidance)(x, 500)
    joined, t = torch.cat([x, conditions.concat], dim=1), torch.tensor([500, 500])
    outputs = [made_up(joined, t, getattr(conditions, b), conditions.fs) for b in guidance.branches]
    expected = translate(guidance.combine(outputs), x, chosen, 500)
    assert torch.equal(estimate.x0, expected.x0)
    assert torch.equal(estimate.noise, expected.noise)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_network_leaves_the_estimate_in_float32(dtype: torch.dtype) -> None:
    seen: list[tuple[object, ...]] = []
    x = normal(*SHAPE)
    denoise = denoiser(calls_of(made_up, seen), VELOCITY, conditioning(batch=2), TextGuidance(3.0), dtype)
    estimate = denoise(x, 999)
    assert all(isinstance(call[0], Tensor) and call[0].dtype == dtype for call in seen)
    assert estimate.x0.dtype == estimate.noise.dtype == torch.float32
    assert torch.equal(estimate.noise, x), "the latents themselves were rounded"


@pytest.mark.usefixtures("large")
def test_half_precision_outputs_are_combined_in_float32() -> None:
    guidance, conditions, x = TextGuidance(7.5, 0.7), conditioning(batch=2), normal(*SHAPE)

    def rounded(joined: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
        return (joined[:, :4].float() * context.text.float().std() + joined[:, 4:].float()).bfloat16()

    estimate = denoiser(rounded, VELOCITY, conditions, guidance, torch.bfloat16)(x, 500)
    joined, t = torch.cat([x, conditions.concat], dim=1).bfloat16(), torch.tensor([500, 500])
    outputs = [rounded(joined, t, getattr(conditions, b), conditions.fs).float() for b in guidance.branches]
    assert torch.equal(estimate.x0, translate(guidance.combine(outputs), x, VELOCITY, 500).x0)


def test_the_latents_are_left_as_they_were() -> None:
    x = normal(*SHAPE)
    before = x.clone()
    denoiser(made_up, NOISE, conditioning(batch=2), TextImageGuidance(3.0, 1.5, 0.7))(x, 7)
    assert torch.equal(x, before)


def test_a_batch_equals_its_clips_one_by_one() -> None:
    network = tiny_unet()
    conditions, x = conditioning(batch=2), normal(*SHAPE)
    both = denoiser(network, VELOCITY, conditions, TextGuidance(3.0, 0.7))(x, 300)
    for clip in range(2):
        part = slice(clip, clip + 1)
        alone = denoiser(network, VELOCITY, clip_of(conditions, part), TextGuidance(3.0, 0.7))(x[part], 300)
        assert relative_difference(both.x0[part], alone.x0) < 1e-5
        assert relative_difference(both.noise[part], alone.noise) < 1e-5


def clip_of(conditions: Conditioning, part: slice) -> Conditioning:
    def of(context: Context) -> Context:
        return Context(context.text[part], context.image[part])

    return Conditioning(
        of(conditions.full),
        of(conditions.unconditional),
        of(conditions.image_only),
        conditions.concat[part],
        conditions.fs[part],
    )


class Counting:
    """Evaluations of made-up branches, whose outputs differ, in the order in which they are asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, tuple[Branch, ...]]] = []

    def __call__(self, x: Tensor, timestep: int, branches: Sequence[Branch]) -> list[Tensor]:
        self.asked.append((timestep, tuple(branches)))
        return [x * (1 + len(branch)) for branch in branches]


PLAN = make_plan(VELOCITY, "uniform_trailing", 10, 0.0)


@pytest.mark.parametrize(
    ("start", "end", "guided"),
    [
        (0.0, 1.0, range(10)),
        (0.2, 0.5, range(2, 5)),
        (0.0, 0.3, range(3)),
        (0.64, 1.0, range(6, 10)),
        (0.01, 0.04, ()),
    ],
)
def test_steps_outside_the_interval_evaluate_the_full_branch_alone(
    start: float, end: float, guided: Sequence[int]
) -> None:
    evaluate, guidance = Counting(), TextGuidance(3.0, 0.7)
    everywhere = make_denoiser(evaluate, VELOCITY, guidance)
    nowhere = make_denoiser(evaluate, VELOCITY, NoGuidance())
    chosen = make_settings(
        V512, "animate", cfg=3.0, guidance_rescale=0.7, guidance_start=start, guidance_end=end
    )
    each = guidance_of(chosen, len(PLAN.timesteps))
    limited = make_denoiser(evaluate, VELOCITY, dict(zip(PLAN.timesteps[::-1], each, strict=True)))
    x = normal(*SHAPE)
    for index, timestep in enumerate(PLAN.timesteps[::-1]):
        made, expected = (run(x, timestep) for run in (limited, everywhere if index in guided else nowhere))
        assert evaluate.asked[-2] == evaluate.asked[-1]
        assert evaluate.asked[-1] == (timestep, guidance.branches if index in guided else ("full",))
        assert torch.equal(made.x0, expected.x0)
        assert torch.equal(made.noise, expected.noise)
