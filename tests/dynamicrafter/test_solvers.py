"""The samplers in sigma' on processes whose exact score is known: order, solution, fixed points and distribution."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch
from networks import normal
from torch import Tensor

from dynamicrafter.diffusion.config import SECOND_EVALUATION, WITHOUT_ETA, Spacing
from dynamicrafter.diffusion.denoiser import Denoise, Estimate
from dynamicrafter.diffusion.samplers import SAMPLERS, Step
from dynamicrafter.diffusion.schedule import Plan, Schedule, make_plan, make_schedule
from dynamicrafter.diffusion.sigmas import exact_sigmas, rescale_of
from dynamicrafter.model.variants import V256, V512, V1024, Variant

pytestmark = pytest.mark.usefixtures("one_thread")

SOLVERS = sorted(SAMPLERS.keys() - {"ddim"})
ORDERS = {"euler": 1, "heun": 2, "dpmpp_2m": 2, "unipc": 3}
WEIGHTS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
MEANS = torch.tensor([-1.0, 0.4, 1.2], dtype=torch.float64)
SPREADS = torch.tensor([0.5, 0.3, 0.6], dtype=torch.float64)
NOISE = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def no_noise() -> Tensor:
    return torch.zeros_like(NOISE)


def mixture(y: Tensor, sigma: float) -> Tensor:
    """The mean of the clean values given ``y`` for a mixture of three Gaussians, float64."""
    if math.isinf(sigma):
        return torch.full_like(y, float((WEIGHTS * MEANS).sum()))
    variances = SPREADS**2 + sigma * sigma
    away = y[:, None] - MEANS
    likely = (WEIGHTS.log() - variances.log() / 2 - away**2 / (2 * variances)).softmax(dim=1)
    return (likely * (MEANS + SPREADS**2 / variances * away)).sum(dim=1)


def knows(clean: Callable[[Tensor, float], Tensor], schedule: Schedule) -> Denoise:
    """A denoiser whose D is ``clean(y, sigma)``; at pure noise ``y`` is the noise."""
    sigmas, scales = exact_sigmas(schedule), rescale_of(schedule)
    signals = schedule.alphas_cumprod.double().sqrt()

    def denoise(x: Tensor, timestep: int) -> Estimate:
        sigma, scale, signal = (values[timestep].item() for values in (sigmas, scales, signals))
        y = x / (signal * scale) if signal else x
        x0 = scale * clean(y, sigma)
        return Estimate(x0=x0, noise=(x - signal * x0) / math.sqrt(1 - signal * signal))

    return denoise


@functools.cache
def solution(spread: float, start: float, end: float, pieces: int = 250) -> Tensor:
    """``w = y / sigma`` at sigma ``end`` for w ``NOISE / spread`` at sigma ``start``, which may be infinite.

    By the Runge-Kutta method of order 4 in the angle whose tangent is sigma, in which the process has no extremes.
    """

    def slope(v: Tensor, angle: float) -> Tensor:
        sine, cosine = math.sin(angle), math.cos(angle)
        at_noise = cosine < 1e-12
        clean = mixture(v if at_noise else v / cosine, math.inf if at_noise else sine / cosine)
        return cosine * (v - cosine * clean) / sine - sine * clean

    first, last = math.atan(start), math.atan(end)
    # The angles are denser near the end, where the slope changes fastest.
    angles = [last * (first / last) ** (1 - i / pieces) for i in range(pieces + 1)]
    v = NOISE / spread * math.sin(first)
    for angle, following in itertools.pairwise(angles):
        h = following - angle
        one = slope(v, angle)
        two = slope(v + h / 2 * one, angle + h / 2)
        three = slope(v + h / 2 * two, angle + h / 2)
        v = v + h / 6 * (one + 2 * two + 2 * three + slope(v + h * three, following))
    return v / math.sin(last)


def error(sampler: str, plan: Plan, end: float | None = None) -> float:
    """Root mean square difference to D of the exact flow at sigma ``end``; by default that of the last timestep."""
    sigmas = exact_sigmas(plan.schedule)[plan.timesteps]
    end = sigmas[0].item() if end is None else end
    spread = (1 - plan.schedule.alphas_cumprod[plan.timesteps[-1]].double()).sqrt().item()
    exact = mixture(solution(spread, sigmas[-1].item(), end) * end, end)
    made = SAMPLERS[sampler](knows(mixture, plan.schedule), plan, NOISE, no_noise)
    return (made - exact).square().mean().sqrt().item()


def schedule_of(u: Sequence[float] | Tensor) -> Schedule:
    """A float64 schedule whose timesteps have ``1 / sigma`` in ``u``, which descends."""
    ratio = torch.as_tensor(u, dtype=torch.float64)
    abar = ratio**2 / (1 + ratio**2)
    return Schedule("v", torch.zeros_like(abar), abar, abar.sqrt(), (1 - abar).sqrt(), None)


def plan_of(variant: Variant, spacing: Spacing, steps: int, eta: float = 0.0) -> Plan:
    return make_plan(make_schedule(variant.diffusion), spacing, steps, eta)


def plan_through(schedule: Schedule, levels: Sequence[int], eta: float) -> Plan:
    return Plan(schedule, list(levels), eta, [0, *levels[:-1]])


def from_pure_noise(count: int) -> Tensor:
    """``count`` steps of 1 / sigma: evenly from 0, as in a schedule with zero-terminal SNR, then in proportion."""
    rising = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    return (torch.sinh(4 * rising) / 2).flip(0)


@pytest.mark.parametrize("sampler", sorted(WITHOUT_ETA))
def test_halving_the_steps_in_log_sigma_shows_the_order(sampler: str) -> None:
    schedule = schedule_of(torch.logspace(1.5, -1.2, 641, dtype=torch.float64))
    errors = [
        error(sampler, plan_through(schedule, range(0, 641, stride), 0.0)) for stride in (40, 20, 10, 5)
    ]
    found = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    order = ORDERS[sampler]
    assert found[-1] == pytest.approx(order, abs=0.15), found
    assert errors[-1] < {1: 2e-2, 2: 1e-3, 3: 1e-4}[order]


@pytest.mark.parametrize("sampler", sorted(WITHOUT_ETA))
def test_starting_from_pure_noise_does_not_lower_the_order(sampler: str) -> None:
    """But for a logarithm: multistep methods extrapolate D in log u, while near u = 0 it is linear in u.

    Step k of n then adds an error of the order of 1 / (k n^2), in all log(n) / n^2.
    """
    errors: list[float] = []
    for count in (40, 80, 160):
        schedule = schedule_of(from_pure_noise(count))
        errors.append(error(sampler, plan_through(schedule, range(count + 1), 0.0)))
    found = math.log2(errors[-2] / errors[-1])
    assert found > min(ORDERS[sampler], 2) - 0.3, errors


@pytest.mark.parametrize("variant", [V256, V512, V1024], ids=lambda v: v.name)
@pytest.mark.parametrize("sampler", sorted(WITHOUT_ETA))
def test_the_released_schedules_are_solved(sampler: str, variant: Variant) -> None:
    few, many = (error(sampler, plan_of(variant, "uniform_trailing", steps)) for steps in (25, 200))
    assert many < few / 5
    assert many < {"euler": 1.2e-2}.get(sampler, 1e-3)
    if sampler != "euler":
        assert few < error("euler", plan_of(variant, "uniform_trailing", 25)) / 5


def documented(sampler: str, spacing: Spacing) -> str:
    """The row of the table in docs/techniques/samplers.md."""
    errors: list[str] = []
    for evaluations in (6, 10, 20, 50):
        steps = evaluations // 2 if sampler in SECOND_EVALUATION else evaluations
        errors.append(f"{error(sampler, plan_of(V512, spacing, steps), 1e-3):.3f}")
    return f"| `{sampler}` | `{spacing}` | {' | '.join(errors)} |"


def test_the_documented_errors_are_those_of_the_samplers() -> None:
    page = Path(__file__).parents[2] / "docs" / "techniques" / "samplers.md"
    rows = [
        documented(sampler, spacing)
        for spacing in ("uniform_trailing", "linspace")
        for sampler in ("ddim", *(name for name in SAMPLERS if name in WITHOUT_ETA))
    ]
    assert "\n".join(rows) in page.read_text(encoding="utf-8"), "\n".join(rows)


@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize("variant", [V256, V512, V1024], ids=lambda v: v.name)
@pytest.mark.parametrize("sampler", SOLVERS)
def test_known_clean_latents_are_the_fixed_point(sampler: str, variant: Variant, spacing: Spacing) -> None:
    """In their own scale and without noise, at any number of steps."""
    known = normal(1, 4, 2, 3, 3, seed=1)
    draws = torch.Generator().manual_seed(2)
    for steps in (1, 2, 3, 7, 25):
        plan = plan_of(variant, spacing, steps, 0.0 if sampler in WITHOUT_ETA else 1.0)
        seen: list[Step] = []
        made = SAMPLERS[sampler](
            knows(lambda y, sigma: known, plan.schedule),
            plan,
            normal(*known.shape, seed=3),
            lambda: torch.randn(known.shape, generator=draws),
            seen.append,
        )
        torch.testing.assert_close(made, known, rtol=0, atol=1e-6)
        assert all(torch.allclose(step.x0, known, rtol=0, atol=1e-6) for step in seen)


@pytest.mark.parametrize("sampler", SOLVERS)
@pytest.mark.parametrize("variant", [V512, V1024], ids=lambda v: v.name)
def test_every_step_leaves_as_much_signal_and_noise_as_its_level_has(sampler: str, variant: Variant) -> None:
    shape = (1, 4, 16, 32, 32)
    known, draws = normal(*shape, seed=1), torch.Generator().manual_seed(2)
    plan = plan_of(variant, "uniform_trailing", 8, 0.0 if sampler in WITHOUT_ETA else 0.6)
    seen: list[Step] = []
    SAMPLERS[sampler](
        knows(lambda y, sigma: known, plan.schedule),
        plan,
        normal(*shape, seed=3),
        lambda: torch.randn(shape, generator=draws),
        seen.append,
    )
    scale = plan.schedule.scale
    assert scale is not None
    for step, following in itertools.pairwise(seen):
        abar = plan.schedule.alphas_cumprod[following.timestep]
        rest = step.x - abar.sqrt() * scale[following.timestep] * known
        assert rest.std().item() == pytest.approx((1 - abar).sqrt().item(), rel=0.02)
        assert abs((rest * known).mean().item()) < 0.02


@pytest.mark.parametrize("variant", [V256, V512, V1024], ids=lambda v: v.name)
def test_eulers_steps_are_ddims_but_for_the_last(variant: Variant) -> None:
    plan = plan_of(variant, "uniform_trailing", 12)
    steps: dict[str, list[Step]] = {"ddim": [], "euler": []}
    for name, seen in steps.items():
        SAMPLERS[name](knows(mixture, plan.schedule), plan, NOISE, no_noise, seen.append)
    for ours, ddims in list(zip(steps["euler"], steps["ddim"], strict=True))[:-1]:
        torch.testing.assert_close(ours.x, ddims.x, rtol=0, atol=2e-5)
    scale = 1.0 if plan.schedule.scale is None else plan.schedule.scale[plan.timesteps[0]].item()
    torch.testing.assert_close(steps["euler"][-1].x, steps["ddim"][-1].x0 / scale, rtol=0, atol=2e-5)


def gaussian(y: Tensor, sigma: float) -> Tensor:
    """The mean of the clean values given ``y``, for a mean of 0.7 and a standard deviation of 0.4."""
    if math.isinf(sigma):
        return torch.full_like(y, 0.7)
    return 0.7 + 0.16 / (0.16 + sigma * sigma) * (y - 0.7)


def mean_and_deviation(plan: Plan) -> tuple[float, float]:
    """Of what the SDE makes of a Gaussian: exact, because the result is an affine function of all noise.

    Element 0 has no noise at all; each other one has a single number of 1, at the start or at one of the steps.
    """
    noises = iter(torch.eye(len(plan.timesteps) + 2, dtype=torch.float64)[1:])
    denoise = knows(gaussian, plan.schedule)
    made = SAMPLERS["dpmpp_2m_sde"](denoise, plan, next(noises), lambda: next(noises))
    return made[0].item(), (made - made[0]).square().sum().sqrt().item()


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("variant", [V512, V1024], ids=lambda v: v.name)
def test_the_sde_ends_in_the_distribution_of_the_clean_values(variant: Variant, eta: float) -> None:
    """With more steps the last one, which returns D, begins ever closer to them."""
    found = [mean_and_deviation(plan_of(variant, "uniform_trailing", steps, eta)) for steps in (50, 200)]
    assert [mean for mean, _ in found] == pytest.approx([0.7, 0.7], abs=1e-6)
    away = [abs(deviation - 0.4) for _, deviation in found]
    assert away[0] < 0.025
    assert away[1] < away[0] / 4


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_more_steps_bring_the_sde_to_the_exact_variance_of_every_level(eta: float) -> None:
    """D at the last level varies less than the clean values do: a fraction of 0.4 / hypot(0.4, sigma)."""
    away: list[float] = []
    for count in (80, 320):
        schedule = schedule_of(from_pure_noise(count))
        mean, deviation = mean_and_deviation(plan_through(schedule, range(count + 1), eta))
        assert mean == pytest.approx(0.7, abs=1e-9)
        away.append(abs(deviation - 0.16 / math.hypot(0.4, exact_sigmas(schedule)[0].item())))
    assert away[1] < min(2e-4, away[0] / 8)


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_from_pure_noise_any_eta_replaces_all_of_it(eta: float) -> None:
    plan = plan_of(V512, "uniform_trailing", 5, eta)
    one, other = (
        SAMPLERS["dpmpp_2m_sde"](knows(mixture, plan.schedule), plan, start, no_noise)
        for start in (NOISE, no_noise())
    )
    assert torch.equal(one, other)


def test_without_eta_the_sde_is_dpmpp_2m_to_the_bit() -> None:
    plan = plan_of(V512, "uniform_trailing", 9)
    made = [
        SAMPLERS[name](knows(mixture, plan.schedule), plan, NOISE, lambda: NOISE)
        for name in ("dpmpp_2m_sde", "dpmpp_2m")
    ]
    assert torch.equal(*made)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_evaluations_draws_and_callbacks_are_counted(sampler: str) -> None:
    plan = plan_of(V512, "uniform_trailing", 6, 0.0 if sampler in WITHOUT_ETA else 1.0)
    inner, calls, draws = knows(mixture, plan.schedule), list[int](), itertools.count()
    seen: list[Step] = []

    def denoise(x: Tensor, timestep: int) -> Estimate:
        calls.append(timestep)
        return inner(x, timestep)

    def draw() -> Tensor:
        next(draws)
        return no_noise()

    start = NOISE.clone()
    made = SAMPLERS[sampler](denoise, plan, start, draw, seen.append)
    descending = plan.timesteps[::-1]
    twice = [t for pair in itertools.pairwise(descending) for t in pair]
    assert calls == ([*twice, descending[-1]] if sampler in SECOND_EVALUATION else descending)
    assert next(draws) == 6
    assert [(step.index, step.total, step.timestep) for step in seen] == [
        (index, 6, t) for index, t in enumerate(descending)
    ]
    assert torch.equal(seen[-1].x, made)
    assert torch.equal(start, NOISE)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_latents_keep_their_dtype(sampler: str) -> None:
    plan = plan_of(V512, "uniform_trailing", 3, 0.0 if sampler in WITHOUT_ETA else 1.0)
    start = normal(1, 4, 2, 3, 3)
    made = SAMPLERS[sampler](
        lambda x, t: Estimate(0.5 * x, 0.8 * x), plan, start, lambda: torch.zeros_like(start)
    )
    assert made.dtype == torch.float32
