"""Noise levels against exact arithmetic, and timesteps for every step count that can be asked for."""

from __future__ import annotations

import math
from decimal import Decimal
from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch

from dynamicrafter.diffusion.config import Spacing
from dynamicrafter.diffusion.samplers import ddim_constants
from dynamicrafter.diffusion.schedule import make_plan, make_schedule, timesteps
from dynamicrafter.model.variants import V256, V512, V1024, Variant

ALL_COUNTS = range(1, 1001)
INDEX_ERROR_IN_THE_ORIGINAL = [3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)]
"""Uniform step counts whose last timestep would be 1000."""
WRAPPED_IN_THE_ORIGINAL = [61, 103, 121, 122]
"""Trailing step counts (below 201) whose first timestep would be -1."""


@cache
def exact_betas(zero_snr: bool) -> tuple[Decimal, ...]:
    """The betas in 28 digits, from their definition and by way of abar."""
    first, last = Decimal("0.00085").sqrt(), Decimal("0.012").sqrt()
    betas = [(first + (last - first) * i / 999) ** 2 for i in range(1000)]
    if not zero_snr:
        return tuple(betas)
    roots = [abar.sqrt() for abar in products(betas)]
    shifted = [(root - roots[-1]) * roots[0] / (roots[0] - roots[-1]) for root in roots]
    ratios = [shifted[0] ** 2] + [(b / a) ** 2 for a, b in zip(shifted, shifted[1:], strict=False)]
    return tuple(1 - ratio for ratio in ratios)


def products(betas: list[Decimal] | tuple[Decimal, ...]) -> list[Decimal]:
    kept, total = [], Decimal(1)
    for beta in betas:
        total *= 1 - beta
        kept.append(total)
    return kept


@pytest.mark.parametrize("variant", [V256, V512, V1024], ids=lambda v: v.name)
def test_noise_levels_are_the_exact_ones_rounded_to_float32(variant: Variant) -> None:
    schedule = make_schedule(variant.diffusion)
    betas = exact_betas(variant.diffusion.zero_snr)
    abar = products(betas)
    exact = {
        "betas": [float(beta) for beta in betas],
        "alphas_cumprod": [float(a) for a in abar],
        "sqrt_alphas_cumprod": [float(a.sqrt()) for a in abar],
        "sqrt_one_minus_alphas_cumprod": [float((1 - a).sqrt()) for a in abar],
    }
    for name, values in exact.items():
        stored = getattr(schedule, name)
        assert stored.dtype == torch.float32
        torch.testing.assert_close(
            stored.double(), torch.tensor(values, dtype=torch.float64), rtol=1e-7, atol=1e-12, msg=name
        )


def test_zero_terminal_snr_ends_in_pure_noise() -> None:
    schedule = make_schedule(V512.diffusion)
    assert schedule.alphas_cumprod[-1] == 0
    assert schedule.sqrt_alphas_cumprod[-1] == 0
    assert schedule.sqrt_one_minus_alphas_cumprod[-1] == 1
    assert schedule.betas[-1] == 1
    assert 0 < schedule.alphas_cumprod[-2] < 2e-7


def test_the_plain_schedule_keeps_a_rest_of_signal() -> None:
    schedule = make_schedule(V256.diffusion)
    assert schedule.alphas_cumprod[-1].item() == pytest.approx(0.0046601, rel=1e-5)


def test_both_schedules_begin_alike() -> None:
    plain, zero = make_schedule(V256.diffusion), make_schedule(V512.diffusion)
    assert plain.alphas_cumprod[0] == zero.alphas_cumprod[0] == pytest.approx(0.99915)


@pytest.mark.parametrize(("variant", "base"), [(V512, 0.7), (V1024, 0.3)], ids=["512", "1024"])
def test_the_dynamic_rescale_falls_evenly_to_its_base_at_step_399(variant: Variant, base: float) -> None:
    scale = make_schedule(variant.diffusion).scale
    assert scale is not None
    assert scale.shape == (1400,)
    for step in (0, 100, 399):
        assert scale[step].item() == pytest.approx(1 - (1 - base) * step / 399, abs=1e-7)
    assert torch.equal(scale[399:], torch.full((1001,), base))


def test_256_has_no_dynamic_rescale() -> None:
    assert make_schedule(V256.diffusion).scale is None


@pytest.mark.parametrize("spacing", get_args(Spacing))
def test_every_step_count_gives_ascending_timesteps_inside_the_schedule(spacing: Spacing) -> None:
    for steps in ALL_COUNTS:
        chosen = timesteps(spacing, steps)
        assert all(0 <= t <= 999 for t in chosen), steps
        assert all(a < b for a, b in zip(chosen, chosen[1:], strict=False)), steps


@pytest.mark.parametrize("spacing", get_args(Spacing))
def test_one_level_is_visited_in_one_step(spacing: Spacing) -> None:
    assert timesteps(spacing, 1, levels=1) == [0]


def test_uniform_takes_every_so_manieth_step_from_one() -> None:
    for steps in ALL_COUNTS:
        stride = 1000 // steps
        chosen = timesteps("uniform", steps)
        assert chosen[0] == 1, steps
        assert all(b - a == stride for a, b in zip(chosen, chosen[1:], strict=False)), steps
        left_out = 1 if steps in INDEX_ERROR_IN_THE_ORIGINAL else 0
        assert len(chosen) == math.ceil(1000 / stride) - left_out, steps
        assert chosen[-1] + stride > 999, steps


def test_uniform_leaves_out_exactly_the_index_at_which_the_original_fails() -> None:
    assert [
        steps for steps in ALL_COUNTS if timesteps("uniform", steps)[-1] + 1000 // steps == 1000
    ] == INDEX_ERROR_IN_THE_ORIGINAL


def test_trailing_counts_down_from_999_in_equal_strides() -> None:
    for steps in ALL_COUNTS:
        chosen = timesteps("uniform_trailing", steps)
        assert len(chosen) == steps
        assert chosen[-1] == 999, steps
        for i, t in enumerate(reversed(chosen)):
            assert abs(t + 1 - (1000 - i * 1000 / steps)) <= 0.5 + 1e-9, (steps, i)


def originals_trailing(steps: int) -> list[int]:
    """As the original rounds: a numpy range of fractional stride, which can be one entry too long."""
    return [int(t) - 1 for t in reversed(np.round(np.arange(1000, 0, -1000 / steps)))]


def test_trailing_rounds_as_the_original_does() -> None:
    for steps in ALL_COUNTS:
        assert timesteps("uniform_trailing", steps) == [t for t in originals_trailing(steps) if t >= 0], steps


def test_trailing_leaves_out_the_wrapped_index_of_the_original() -> None:
    wrapped = [steps for steps in range(1, 201) if originals_trailing(steps)[0] == -1]
    assert wrapped == WRAPPED_IN_THE_ORIGINAL
    for steps in wrapped:
        assert timesteps("uniform_trailing", steps) == originals_trailing(steps)[1:]


def test_a_half_goes_the_way_the_originals_rounding_error_sends_it() -> None:
    """1000 - 3 * 1000 / 48 is 937.5; the original's stride is a little too long, so 937 and not the even 938."""
    assert timesteps("uniform_trailing", 48)[-4] == 936


def test_linspace_goes_evenly_from_999_to_1() -> None:
    for steps in ALL_COUNTS[1:]:
        chosen = timesteps("linspace", steps)
        assert (chosen[0], chosen[-1], len(chosen)) == (1, 999, min(steps, 999))
        for i, t in enumerate(chosen if steps < 1000 else ()):
            assert abs(t - (1 + i * 998 / (steps - 1))) <= 0.5 + 1e-9, (steps, i)


@pytest.mark.parametrize("steps", [2, 6, 12, 50])
def test_linspace_ends_where_the_dynamic_rescale_is_as_good_as_one(steps: int) -> None:
    """The last step leaves the clean latents scaled by the rescale of the lowest timestep, as in the original."""
    scale = make_schedule(V1024.diffusion).scale
    assert scale is not None
    assert scale[timesteps("linspace", steps)[0]].item() > 0.998
    assert scale[timesteps("uniform_trailing", steps)[0]].item() < 0.97


@pytest.mark.parametrize(
    ("spacing", "steps", "expected"),
    [
        ("uniform", 1, [1]),
        ("uniform", 4, [1, 251, 501, 751]),
        ("uniform", 3, [1, 334, 667]),
        ("uniform", 1000, list(range(1, 1000))),
        ("uniform_trailing", 1, [999]),
        ("uniform_trailing", 4, [249, 499, 749, 999]),
        # 1000 - 62.5 i, rounded half to even
        (
            "uniform_trailing",
            16,
            [61, 124, 187, 249, 311, 374, 437, 499, 561, 624, 687, 749, 811, 874, 937, 999],
        ),
        ("uniform_trailing", 1000, list(range(1000))),
        ("linspace", 1, [999]),
        ("linspace", 4, [1, 334, 666, 999]),
        ("linspace", 1000, list(range(1, 1000))),
    ],
)
def test_timesteps(spacing: Spacing, steps: int, expected: list[int]) -> None:
    assert timesteps(spacing, steps) == expected


def test_fifty_steps_of_the_released_scripts() -> None:
    assert timesteps("uniform", 50) == list(range(1, 1000, 20))
    assert timesteps("uniform_trailing", 50) == list(range(19, 1000, 20))
    assert (len(timesteps("uniform", 30)), len(timesteps("uniform", 60))) == (31, 63)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_step_counts_outside_the_schedule_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps must be 1 to 1000, not {steps}"):
        timesteps("uniform", steps)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("variant", [V256, V512], ids=lambda v: v.name)
def test_the_plan_is_ddims_equations_in_the_stored_noise_levels(variant: Variant, eta: float) -> None:
    schedule = make_schedule(variant.diffusion)
    made = make_plan(schedule, variant.preset.spacing, 10, eta)
    plan = ddim_constants(made)
    abar = [a.item() for a in schedule.alphas_cumprod]
    levels = [abar[t] for t in made.timesteps]
    targets = [abar[0], *levels[:-1]]
    assert plan.alphas.tolist() == levels
    assert plan.alphas_prev.tolist() == targets
    for sigma, a, previous in zip(plan.sigmas.tolist(), levels, targets, strict=True):
        exact = eta * math.sqrt((1 - previous) / (1 - a) * (1 - a / previous))
        assert sigma == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize("variant", [V512, V1024], ids=lambda v: v.name)
def test_the_plans_rescale_moves_x0_to_the_scale_of_the_steps_target(variant: Variant) -> None:
    schedule = make_schedule(variant.diffusion)
    made = make_plan(schedule, "uniform_trailing", 50, 1.0)
    plan = ddim_constants(made)
    assert schedule.scale is not None
    scale = schedule.scale[made.timesteps].double()
    assert plan.rescale[0] == 1
    torch.testing.assert_close(plan.rescale[1:].double(), scale[:-1] / scale[1:], rtol=1e-6, atol=0)
    base = torch.tensor(made.timesteps) >= 399
    assert (plan.rescale[1:][base[:-1]] == 1).all()
    assert (plan.rescale[1:][~base[:-1]] > 1).all()


def test_without_a_dynamic_rescale_x0_stays_as_it_is() -> None:
    plan = ddim_constants(make_plan(make_schedule(V256.diffusion), "uniform", 50, 1.0))
    assert torch.equal(plan.rescale, torch.ones(50))
