"""DDIM over made-up denoisers whose result is known, at every step count and on any batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
import torch
from networks import TINY_UNET, conditioning, normal, relative_difference
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynamicrafter.diffusion.config import SAMPLER_MEANINGS, Spacing
from dynamicrafter.diffusion.denoiser import Denoise, Estimate, make_denoiser
from dynamicrafter.diffusion.guidance import TextImageGuidance
from dynamicrafter.diffusion.samplers import (
    SAMPLERS,
    DdimConstants,
    Step,
    ddim_constants,
    ddim_step,
    draw_noise,
    sample_ddim,
)
from dynamicrafter.diffusion.schedule import Plan, Schedule, make_plan, make_schedule
from dynamicrafter.model.conditioning import Conditioning
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.protocols import Context
from dynamicrafter.model.unet import VideoUNet
from dynamicrafter.model.variants import V256, V512, V1024, Variant
from dynamicrafter.pipeline import evaluator

CPU = torch.device("cpu")
SHAPE = (1, 4, 2, 3, 3)
NAN_IN_THE_ORIGINAL = [7, 11, 14, 15, 20, 25, 33, 34, 35, 37, 38, 39, 61, 62, 63, 64]
"""Trailing step counts whose first step takes the root of a number rounded below zero (eta 1, zero-SNR)."""


def knowing(x0: Tensor, schedule: Schedule) -> Denoise:
    """A perfect denoiser: it knows the clean latents, which the process scales down before it adds noise."""

    def denoise(x: Tensor, timestep: int) -> Estimate:
        scaled = x0 if schedule.scale is None else x0 * schedule.scale[timestep]
        signal, spread = (
            schedule.sqrt_alphas_cumprod[timestep],
            schedule.sqrt_one_minus_alphas_cumprod[timestep],
        )
        return Estimate(x0=scaled, noise=(x - signal * scaled) / spread)

    return denoise


def shrinking(x: Tensor, timestep: int) -> Estimate:
    """The estimate of a network that believes in a standard normal world."""
    return Estimate(x0=0.5 * x, noise=0.8 * x)


def draws(shape: tuple[int, ...] = SHAPE, seed: int = 100) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)


class Traffic(TorchDispatchMode):
    """Notes every operator that waits for a GPU: copies between devices and values that Python reads."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        crosses = copies and given | {out.device.type} == {"cpu", "cuda"}
        if crosses or func is torch.ops.aten._local_scalar_dense.default:
            self.noted.append(str(func))
        return out


@pytest.mark.parametrize("variant", [V256, V512], ids=["eps", "v"])
def test_no_step_waits_for_the_device_after_its_noise_is_there(variant: Variant) -> None:
    """On a GPU without values, for which FakeTensorMode needs no hardware."""
    at_draw: list[int] = []
    with FakeTensorMode(allow_non_fake_inputs=True), Traffic() as traffic:
        cuda = torch.device("cuda")

        def on(context: Context) -> Context:
            return Context(context.text.to(cuda), context.image.to(cuda))

        given = conditioning()
        there = Conditioning(
            on(given.full),
            on(given.unconditional),
            on(given.image_only),
            given.concat.to(cuda),
            given.fs.to(cuda),
        )
        network = VideoUNet(TINY_UNET, Operations(device=cuda)).requires_grad_(False)
        guidance = TextImageGuidance(3.0, 1.5, 0.7)
        schedule = make_schedule(variant.diffusion)
        denoise = make_denoiser(evaluator(network, there), schedule, guidance)
        x = torch.empty(1, 4, 2, 4, 4, device=cuda)

        def draw() -> Tensor:
            at_draw.append(len(traffic.noted))
            return torch.empty(1, 4, 2, 4, 4, device=cuda)

        with torch.no_grad():
            out = sample_ddim(denoise, make_plan(schedule, "linspace", 3, 1.0), x, draw)
        assert out.device.type == "cuda"
        assert at_draw[0] == at_draw[-1] == len(traffic.noted)
        # The spy sees what it is for.
        torch.ones(()).to(cuda)
        assert len(traffic.noted) == at_draw[-1] + 1


def plan_of(variant: Variant, spacing: Spacing, steps: int, eta: float) -> Plan:
    return make_plan(make_schedule(variant.diffusion), spacing, steps, eta)


def constants_of(variant: Variant, spacing: Spacing, steps: int, eta: float) -> DdimConstants:
    return ddim_constants(plan_of(variant, spacing, steps, eta))


def root_argument(constants: DdimConstants, i: int) -> Tensor:
    return 1 - constants.alphas_prev[i] - constants.sigmas[i] * constants.sigmas[i]


@pytest.mark.parametrize("steps", NAN_IN_THE_ORIGINAL)
def test_no_nan_where_the_originals_root_argument_is_below_zero(steps: int) -> None:
    plan = plan_of(V512, "uniform_trailing", steps, 1.0)
    assert root_argument(ddim_constants(plan), -1) < 0
    x = sample_ddim(shrinking, plan, normal(*SHAPE), draws())
    assert torch.isfinite(x).all()


def test_the_nan_list_is_complete_to_two_hundred_steps() -> None:
    found = [
        s for s in range(1, 201) if root_argument(constants_of(V512, "uniform_trailing", s, 1.0), -1) < 0
    ]
    assert found == NAN_IN_THE_ORIGINAL


@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize("variant", [V256, V512, V1024], ids=lambda v: v.name)
def test_every_step_of_every_step_count_is_finite(variant: Variant, spacing: Spacing) -> None:
    schedule = make_schedule(variant.diffusion)
    one = torch.ones(1)
    for steps in [*range(1, 66), 99, 101, 111, 122, 250, 333, 500, 501, 1000]:
        found = ddim_constants(make_plan(schedule, spacing, steps, 1.0))
        stepped = torch.stack([ddim_step(one, one, one, found, i) for i in {0, len(found.alphas) // 2, -1}])
        assert torch.isfinite(stepped).all(), steps
        assert torch.isfinite(found.rescale).all(), steps


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_is_ddims_equation(eta: float) -> None:
    plan = constants_of(V256, "uniform", 10, eta)
    x0, noise, fresh = (normal(*SHAPE, seed=seed) for seed in range(3))
    for i in range(len(plan.alphas)):
        previous, sigma = plan.alphas_prev[i].double(), plan.sigmas[i].double()
        expected = (
            previous.sqrt() * x0.double()
            + (1 - previous - sigma**2).clamp(min=0).sqrt() * noise.double()
            + sigma * fresh.double()
        )
        torch.testing.assert_close(
            ddim_step(x0, noise, fresh, plan, i).double(), expected, rtol=1e-5, atol=1e-6
        )


def test_the_root_argument_is_evaluated_in_float32() -> None:
    """A rest of 6e-8 has a root of 2.4e-4, which the original's numbers contain."""
    plan = constants_of(V512, "uniform_trailing", 6, 1.0)
    rest = root_argument(plan, -1)
    assert rest > 0
    stepped = ddim_step(torch.zeros(1), torch.ones(1), torch.zeros(1), plan, -1)
    assert stepped == rest.sqrt()


@pytest.mark.parametrize(("variant", "spacing"), [(V256, "uniform"), (V512, "uniform_trailing")])
def test_without_eta_the_draws_do_not_matter(variant: Variant, spacing: Spacing) -> None:
    plan = plan_of(variant, spacing, 12, 0.0)
    one = sample_ddim(shrinking, plan, normal(*SHAPE), draws(seed=1))
    other = sample_ddim(shrinking, plan, normal(*SHAPE), draws(seed=2))
    assert torch.equal(one, other)


def test_with_eta_they_do() -> None:
    plan = plan_of(V512, "uniform_trailing", 12, 1.0)
    one = sample_ddim(shrinking, plan, normal(*SHAPE), draws(seed=1))
    other = sample_ddim(shrinking, plan, normal(*SHAPE), draws(seed=2))
    assert relative_difference(one, other) > 0.1


@pytest.mark.parametrize("steps", [1, 5, 50, 61])
@pytest.mark.parametrize("variant", [V512, V1024], ids=lambda v: v.name)
def test_a_perfect_denoiser_without_eta_ends_at_the_known_latents(variant: Variant, steps: int) -> None:
    """At the noise level of t = 0, in the scale of the lowest timestep, with the initial noise still in it."""
    schedule = make_schedule(variant.diffusion)
    plan = make_plan(schedule, "uniform_trailing", steps, 0.0)
    x0, start = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    made = sample_ddim(knowing(x0, schedule), plan, start, draws())
    assert schedule.scale is not None
    scale, abar = schedule.scale[plan.timesteps[0]], schedule.alphas_cumprod[0]
    expected = abar.sqrt() * scale * x0 + (1 - abar).sqrt() * start
    # The noise is read out of x again at every step, so rounding adds up.
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-5)


def test_the_plain_schedule_ends_there_too() -> None:
    """It begins as if x were pure noise although a little signal would be left, so that much is missing."""
    schedule = make_schedule(V256.diffusion)
    plan = make_plan(schedule, "uniform", 20, 0.0)
    x0, start = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    made = sample_ddim(knowing(x0, schedule), plan, start, draws())
    first = plan.timesteps[-1]
    signal, spread = schedule.sqrt_alphas_cumprod[first], schedule.sqrt_one_minus_alphas_cumprod[first]
    abar = schedule.alphas_cumprod[0]
    expected = abar.sqrt() * x0 + (1 - abar).sqrt() * (start - signal * x0) / spread
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-5)


def test_with_eta_a_perfect_denoiser_leaves_noise_of_the_last_level() -> None:
    schedule = make_schedule(V512.diffusion)
    plan = make_plan(schedule, "uniform_trailing", 10, 1.0)
    shape = (1, 4, 16, 16, 16)
    x0 = normal(*shape, seed=1)
    made = sample_ddim(knowing(x0, schedule), plan, normal(*shape, seed=2), draws(shape))
    assert schedule.scale is not None
    rest = made - schedule.sqrt_alphas_cumprod[0] * schedule.scale[plan.timesteps[0]] * x0
    assert rest.std().item() == pytest.approx((1 - schedule.alphas_cumprod[0]).sqrt().item(), rel=0.05)
    assert abs(rest.mean().item()) < 1e-3


def test_the_dynamic_rescale_moves_x0_and_leaves_the_noise() -> None:
    plan = plan_of(V1024, "uniform_trailing", 10, 0.0)
    steps: list[Step] = []
    sample_ddim(
        lambda x, t: Estimate(torch.ones_like(x), torch.zeros_like(x)),
        plan,
        normal(*SHAPE),
        draws(),
        steps.append,
    )
    constants = ddim_constants(plan)
    for step, i in zip(steps, reversed(range(10)), strict=True):
        assert torch.equal(step.x0, torch.ones(SHAPE) * constants.rescale[i])
        assert torch.equal(step.x, constants.alphas_prev[i].sqrt() * step.x0)
    assert {round(step.x0.max().item(), 4) for step in steps[:6]} == {1.0}
    assert steps[-2].x0.max() > 1


def test_the_callback_sees_every_step() -> None:
    plan = plan_of(V512, "uniform_trailing", 7, 1.0)
    steps: list[Step] = []
    made = sample_ddim(shrinking, plan, normal(*SHAPE), draws(), steps.append)
    assert [step.index for step in steps] == list(range(7))
    assert {step.total for step in steps} == {7}
    assert [step.timestep for step in steps] == plan.timesteps[::-1]
    assert all(step.x.shape == step.x0.shape == made.shape for step in steps)
    assert torch.equal(steps[-1].x, made)


def test_the_total_counts_the_steps_that_run() -> None:
    steps: list[Step] = []
    sample_ddim(shrinking, plan_of(V256, "uniform", 30, 0.0), normal(*SHAPE), draws(), steps.append)
    assert (len(steps), steps[0].total) == (31, 31)


def test_what_a_callback_raises_stops_the_run() -> None:
    class Enough(Exception):
        pass

    calls: list[int] = []

    def denoise(x: Tensor, timestep: int) -> Estimate:
        calls.append(timestep)
        return shrinking(x, timestep)

    def stop(step: Step) -> None:
        if step.index == 2:
            raise Enough("after the third step")

    with pytest.raises(Enough, match="after the third step"):
        sample_ddim(denoise, plan_of(V512, "uniform_trailing", 10, 1.0), normal(*SHAPE), draws(), stop)
    assert calls == [999, 899, 799]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_fresh_noise_is_drawn_once_a_step_whatever_eta_is(eta: float) -> None:
    count = itertools.count()

    def draw() -> Tensor:
        next(count)
        return torch.zeros(SHAPE)

    sample_ddim(shrinking, plan_of(V512, "uniform_trailing", 9, eta), normal(*SHAPE), draw)
    assert next(count) == 9


def test_the_first_noise_is_left_as_it_was() -> None:
    start = normal(*SHAPE)
    before = start.clone()
    sample_ddim(shrinking, plan_of(V512, "uniform_trailing", 3, 1.0), start, draws())
    assert torch.equal(start, before)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_each_clip_of_a_batch_gets_the_noise_of_its_seed() -> None:
    together = generators(5, 6, 7)
    batch = [draw_noise(together, SHAPE[1:], CPU) for _ in range(3)]
    for clip, seed in enumerate((5, 6, 7)):
        alone = generators(seed)
        for drawn in batch:
            assert torch.equal(drawn[clip : clip + 1], draw_noise(alone, SHAPE[1:], CPU))


def test_noise_is_the_plain_sequence_of_the_seed() -> None:
    plain = torch.Generator().manual_seed(11)
    drawn = draw_noise(generators(11), SHAPE[1:], CPU)
    assert (drawn.dtype, drawn.shape) == (torch.float32, SHAPE)
    assert torch.equal(drawn[0], torch.randn(SHAPE[1:], generator=plain))


def test_noise_goes_to_the_device_it_is_asked_for() -> None:
    assert draw_noise(generators(1, 2), (4, 3), torch.device("meta")).device.type == "meta"


def test_a_batch_of_clips_equals_single_runs() -> None:
    plan = plan_of(V512, "uniform_trailing", 8, 1.0)

    def run(*seeds: int) -> Tensor:
        drawn = generators(*seeds)

        def noises() -> Iterator[Tensor]:
            while True:
                yield draw_noise(drawn, SHAPE[1:], CPU)

        source = noises()
        return sample_ddim(shrinking, plan, next(source), lambda: next(source))

    assert torch.equal(run(1, 2), torch.cat([run(1), run(2)]))


def test_every_sampler_has_a_meaning_and_every_meaning_a_sampler() -> None:
    assert SAMPLERS.keys() == SAMPLER_MEANINGS.keys()
