"""Samplers as pure functions of a denoiser: from noise to latents, step by step.

DDIM is the sampler that the models were released with. All others solve the same process in terms of sigma' (see
:mod:`.sigmas`). With ``y = x0 + sigma' noise``, ``w = y / sigma'`` and ``u = 1 / sigma'``, its probability flow is
``dw/du = D(w, u)``, where D is the estimate of the clean latents without the dynamic rescale. In these variables the
pure noise of zero-terminal SNR is the ordinary point ``u = 0``, where w is the noise itself. The last step goes to
``u = inf``, where y is D: unlike DDIM, which ends at abar[0] in the scale of its lowest timestep, these samplers end
at the clean latents in their own scale at any number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .denoiser import Denoise
from .schedule import Plan
from .sigmas import exact_sigmas, rescale_of


@dataclass(frozen=True)
class Step:
    """The argument of a callback after each step."""

    index: int
    """0 for the first executed step."""
    total: int
    timestep: int
    x: Tensor
    """Latents after the step, float32 ``[b, 4, t, h, w]``."""
    x0: Tensor
    """The step's estimate of the clean latents, same shape as ``x``; with the dynamic rescale applied for DDIM."""


Callback = Callable[[Step], None]
"""Called after every step; an exception it raises stops the run."""


class Sampler(Protocol):
    """Turns noise into latents."""

    def __call__(
        self,
        denoise: Denoise,
        plan: Plan,
        x: Tensor,
        draw: Callable[[], Tensor],
        callback: Callback | None = None,
    ) -> Tensor:
        """Run all steps of ``plan`` on the noise ``x`` (float32 ``[b, 4, t, h, w]``); returns latents of that shape.

        ``draw`` returns new standard normal noise of the shape of ``x``. It is called once per step even if eta is 0,
        so that the random numbers of a seed depend neither on eta nor on the sampler.
        """
        ...


@dataclass(frozen=True)
class DdimConstants:
    """Constants of a DDIM run, one for each timestep of its plan; float32 ``[n]``."""

    alphas: Tensor
    """abar at each step."""
    alphas_prev: Tensor
    """abar at the step's target; DynamiCrafter's last executed step ends at abar[0], not at 1."""
    sigmas: Tensor
    """Standard deviation of the noise added at the step."""
    rescale: Tensor
    """Factor applied to x0: the dynamic rescale at the target over that at the step (1 without dynamic rescale)."""


def ddim_constants(plan: Plan) -> DdimConstants:
    """Constants for DDIM (arXiv 2010.02502, equation 16) from the float32 abar, as in the original."""
    schedule, chosen = plan.schedule, plan.timesteps
    alphas = schedule.alphas_cumprod[chosen]
    # Index -1, the clean latents, has nothing but signal.
    alphas_prev = torch.cat([schedule.alphas_cumprod, torch.ones(1)])[plan.targets].double()
    sigmas = plan.eta * ((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev)).sqrt()
    rescale = torch.ones(len(chosen))
    if schedule.scale is not None:
        scale = schedule.scale[chosen]
        rescale = torch.cat([scale[:1], scale[:-1]]) / scale
    return DdimConstants(alphas, alphas_prev.float(), sigmas.float(), rescale)


def ddim_step(x0: Tensor, noise: Tensor, fresh: Tensor, constants: DdimConstants, i: int) -> Tensor:
    """Latents at the target of step ``i`` from (rescaled) x0, the estimated noise and new standard normal noise.

    ``sqrt(aprev) x0 + sqrt(1 - aprev - sigma^2) noise + sigma fresh`` (arXiv 2010.02502, equation 12). The middle
    root's argument is evaluated in float32 and clamped at 0: at some step counts it rounds to a negative number, where
    the original returns NaN.
    """
    previous, sigma = constants.alphas_prev[i], constants.sigmas[i]
    direction = (1 - previous - sigma * sigma).clamp(min=0).sqrt() * noise
    return previous.sqrt() * x0 + direction + sigma * fresh


def sample_ddim(
    denoise: Denoise,
    plan: Plan,
    x: Tensor,
    draw: Callable[[], Tensor],
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502) with the released models' dynamic rescale, as :class:`Sampler`."""
    constants = ddim_constants(plan)
    total = len(plan.timesteps)
    for index, i in enumerate(reversed(range(total))):
        timestep = plan.timesteps[i]
        # First, because sending it to a GPU waits for all its work.
        fresh = draw()
        estimate = denoise(x, timestep)
        x0 = estimate.x0 * constants.rescale[i]
        x = ddim_step(x0, estimate.noise, fresh, constants, i)
        if callback is not None:
            callback(Step(index, total, timestep, x, x0))
    return x


@dataclass(frozen=True)
class _Grid:
    """The steps of a plan in the order in which they run, as plain numbers, so that no step waits for a device."""

    timesteps: list[int]
    u: list[float]
    """1 / sigma', strictly ascending; 0 for pure noise."""
    spread: list[float]
    """sqrt(1 - abar), which is x / w."""
    scale: list[float]
    """Dynamic rescale."""

    def clean(self, denoise: Denoise, w: Tensor, i: int) -> Tensor:
        """D at step ``i``, from one evaluation."""
        return denoise(w * self.spread[i], self.timesteps[i]).x0 / self.scale[i]

    def log_step(self, i: int) -> float:
        """Length of step ``i`` in log u; infinite from pure noise."""
        return math.log(self.u[i + 1] / self.u[i]) if self.u[i] else math.inf


def _grid(plan: Plan) -> _Grid:
    chosen = plan.timesteps[::-1]
    sigmas, scale = exact_sigmas(plan.schedule), rescale_of(plan.schedule)
    spread = (1 - plan.schedule.alphas_cumprod.double()).sqrt()
    return _Grid(
        chosen,
        [1 / sigmas[t].item() for t in chosen],
        [spread[t].item() for t in chosen],
        [scale[t].item() for t in chosen],
    )


_Advance = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""``(i, w, D, fresh noise) -> w`` at the target of step ``i``."""


def _integrate(
    denoise: Denoise,
    grid: _Grid,
    x: Tensor,
    draw: Callable[[], Tensor],
    callback: Callback | None,
    advance: _Advance,
) -> Tensor:
    """Run all steps; ``advance`` takes each but the last, which returns D."""
    w = x / grid.spread[0]
    total = len(grid.timesteps)
    for i, timestep in enumerate(grid.timesteps):
        clean, fresh = grid.clean(denoise, w, i), draw()
        if i < total - 1:
            w = advance(i, w, clean, fresh)
            x = w * grid.spread[i + 1]
        else:
            x = clean
        if callback is not None:
            callback(Step(i, total, timestep, x, clean))
    return x


def sample_euler(
    denoise: Denoise,
    plan: Plan,
    x: Tensor,
    draw: Callable[[], Tensor],
    callback: Callback | None = None,
) -> Tensor:
    """Euler's method, of order 1, as :class:`Sampler`; the steps of DDIM with eta 0 but for the last one."""
    grid = _grid(plan)

    def advance(i: int, w: Tensor, clean: Tensor, _: Tensor) -> Tensor:
        return w + (grid.u[i + 1] - grid.u[i]) * clean

    return _integrate(denoise, grid, x, draw, callback, advance)


def sample_heun(
    denoise: Denoise,
    plan: Plan,
    x: Tensor,
    draw: Callable[[], Tensor],
    callback: Callback | None = None,
) -> Tensor:
    """Heun's method in sigma' (arXiv 2206.00364, algorithm 1), of order 2, as :class:`Sampler`.

    Every step but the last takes two evaluations. From pure noise, where the derivative by sigma' has no limit, the
    step is Heun's in u: for any clean latents of finite variance, D is linear in u near u = 0.
    """
    grid = _grid(plan)

    def advance(i: int, w: Tensor, clean: Tensor, _: Tensor) -> Tensor:
        start, end = grid.u[i], grid.u[i + 1]
        predicted = w + (end - start) * clean
        weight = end / (2 * start) if start else 0.5
        return predicted + (end - start) * weight * (grid.clean(denoise, predicted, i + 1) - clean)

    return _integrate(denoise, grid, x, draw, callback, advance)


def sample_dpmpp_2m(
    denoise: Denoise,
    plan: Plan,
    x: Tensor,
    draw: Callable[[], Tensor],
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2), of order 2, as :class:`Sampler`."""
    return _sample_multistep(denoise, plan, x, draw, callback, eta=0)


def sample_dpmpp_2m_sde(
    denoise: Denoise,
    plan: Plan,
    x: Tensor,
    draw: Callable[[], Tensor],
    callback: Callback | None = None,
) -> Tensor:
    """The SDE form of DPM-Solver++ 2M (arXiv 2211.01095, appendix), as :class:`Sampler`.

    ``eta`` of the plan multiplies the rate at which noise is replaced: 1 is the reverse SDE of the process, with the
    noise of DDPM, and 0 is DPM-Solver++ 2M.
    """
    return _sample_multistep(denoise, plan, x, draw, callback, plan.eta)


def _sample_multistep(
    denoise: Denoise,
    plan: Plan,
    x: Tensor,
    draw: Callable[[], Tensor],
    callback: Callback | None,
    eta: float,
) -> Tensor:
    """DPM-Solver++ 2M: D is extrapolated to the middle of a step, linearly in log u."""
    grid = _grid(plan)
    previous: Tensor | None = None

    def advance(i: int, w: Tensor, clean: Tensor, fresh: Tensor) -> Tensor:
        nonlocal previous
        middle = _extrapolated(grid, i, clean, previous)
        previous = clean
        ratio = grid.u[i] / grid.u[i + 1]
        # The fraction of the noise that stays; none of it does from pure noise, unless eta is 0.
        kept = ratio**eta
        return kept * w + grid.u[i + 1] * (1 - ratio * kept) * middle + math.sqrt(1 - kept * kept) * fresh

    return _integrate(denoise, grid, x, draw, callback, advance)


def _extrapolated(grid: _Grid, i: int, clean: Tensor, previous: Tensor | None) -> Tensor:
    """D half-way through step ``i``, linear in log u; constant if there is no earlier D but that of pure noise."""
    if previous is None or grid.u[i - 1] == 0:
        return clean
    return clean + grid.log_step(i) / (2 * grid.log_step(i - 1)) * (clean - previous)


def sample_unipc(
    denoise: Denoise,
    plan: Plan,
    x: Tensor,
    draw: Callable[[], Tensor],
    callback: Callback | None = None,
) -> Tensor:
    """UniPC-2 with B(h) = e^h - 1 (arXiv 2302.04867), of order 3, as :class:`Sampler`.

    The predictor is that of DPM-Solver++ 2M. The corrector takes D at the predicted latents, which the next step needs
    anyway, so that a step takes one evaluation; the latents of a callback are the predicted ones.
    """
    grid = _grid(plan)
    before: Tensor | None = None
    cleans: list[Tensor] = []

    def advance(i: int, w: Tensor, clean: Tensor, _: Tensor) -> Tensor:
        nonlocal before
        if before is not None:
            w = before + _corrected_step(grid, i - 1, [*cleans, clean])
        before = w
        middle = _extrapolated(grid, i, clean, cleans[-1] if cleans else None)
        cleans[:] = [*cleans[-1:], clean]
        return w + (grid.u[i + 1] - grid.u[i]) * middle

    return _integrate(denoise, grid, x, draw, callback, advance)


def _corrected_step(grid: _Grid, i: int, cleans: Sequence[Tensor]) -> Tensor:
    """The change of w in step ``i``, from D at its target, at its start and, if known, one step before (last to first).

    The integral of the parabola in log u through the three, or the trapezoidal rule in u without the first one.
    """
    start, end = grid.u[i], grid.u[i + 1]
    change = cleans[-1] - cleans[-2]
    if len(cleans) < 3 or grid.u[i - 1] == 0:
        return (end - start) * (cleans[-2] + change / 2)
    h = grid.log_step(i)
    ratio = grid.log_step(i - 1) / h
    curvature = (change - (cleans[-2] - cleans[-3]) / ratio) / (1 + ratio)
    # Moments of 1, z and z^2 over the step, whose fraction z is in log u.
    constant = 1 - start / end
    linear = 1 - constant / h
    square = 1 - 2 * linear / h
    return end * (constant * cleans[-2] + linear * change + (square - linear) * curvature)


SAMPLERS: dict[str, Sampler] = {
    "ddim": sample_ddim,
    "euler": sample_euler,
    "heun": sample_heun,
    "dpmpp_2m": sample_dpmpp_2m,
    "dpmpp_2m_sde": sample_dpmpp_2m_sde,
    "unipc": sample_unipc,
}
"""Every sampler by name; :data:`~dynamicrafter.diffusion.config.SAMPLER_MEANINGS` describes them."""


def draw_noise(generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device) -> Tensor:
    """Standard normal float32 ``[b, *shape]`` on ``device``, one generator for each clip of the batch.

    Noise is generated on each generator's own device, so that a clip does not depend on the rest of the batch nor, with
    CPU generators, on the device the model runs on.
    """
    drawn = [
        torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=torch.float32)
        for generator in generators
    ]
    return torch.stack([noise.to(device) for noise in drawn])
