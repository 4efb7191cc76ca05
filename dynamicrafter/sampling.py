"""What settings decide between evaluations of the network and latents; every front end samples through this module."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from .diffusion.config import DiffusionConfig
from .diffusion.denoiser import DenoiseWrapper, Evaluate, EvaluateWrapper, make_denoiser
from .diffusion.guidance import (
    Branch,
    Guidance,
    NoGuidance,
    Scale,
    WeakGuidance,
    curve,
    guided_steps,
    make_guidance,
)
from .diffusion.projection import project_guidance
from .diffusion.samplers import SAMPLERS, Callback
from .diffusion.schedule import Plan, Schedule, make_plan, make_schedule
from .diffusion.start import AnalyticInit, SourceClip, keep_unmasked, put_back
from .errors import UsageError
from .model.attention import SelfAttention
from .model.unet import VideoUNet
from .model.weakening import pag_layers, stg_layers, weakened
from .parameters import numbers_in
from .settings import Settings, sampled_frames

_CPU = torch.device("cpu")


def guidance_of(settings: Settings, steps: int, device: torch.device = _CPU) -> list[Guidance]:
    """The guidance of each of ``steps`` steps, from the first to the last; ``device`` is that of the outputs."""
    guided = guided_steps(steps, settings.guidance_start, settings.guidance_end)
    factors = curve(numbers_in(settings.cfg_steps), steps)
    frames = curve(numbers_in(settings.cfg_frames), sampled_frames(settings))
    scales: list[tuple[Branch, float]] = [("stg", settings.stg_scale), ("pag", settings.pag_scale)]
    weak = tuple(each for each in scales if each[1])
    made: list[Guidance] = []
    for index, factor in enumerate(factors):
        if index not in guided:
            made.append(NoGuidance())
            continue
        image = settings.image_cfg if factor and any(frames) else None
        plain = make_guidance(
            _scheduled(settings.cfg, factor, frames, device),
            None if image is None else _scheduled(image, factor, frames, device),
            0.0 if weak else settings.guidance_rescale,
        )
        made.append(WeakGuidance(plain, weak, settings.guidance_rescale) if weak else plain)
    return made


def _scheduled(scale: float, factor: float, frames: Sequence[float], device: torch.device) -> Scale:
    """``scale`` with its strength, what it exceeds 1 by, multiplied; for each frame if their factors differ."""
    factors = {factor * each for each in frames}
    if len(factors) == 1:
        (factor,) = factors
        return scale if factor == 1 else 1 + factor * (scale - 1)
    return 1 + torch.tensor(frames, device=device).view(-1, 1, 1) * (factor * (scale - 1))


def steps_of(settings: Settings, schedule: Schedule) -> Plan:
    """All steps of the settings, of which the last part is run if ``denoise`` is below 1."""
    return make_plan(schedule, settings.spacing, settings.steps, settings.eta, settings.start_time)


def analytic_of(settings: Settings) -> AnalyticInit:
    """The Analytic-Init of settings that have one."""
    *means, variance = numbers_in(settings.analytic_init)
    a, b, c, d = means
    return AnalyticInit((a, b, c, d), variance, settings.analytic_form == "published")


def calls_of(settings: Settings) -> list[int]:
    """Evaluations of the network in each step that is run: the last part of all steps if ``denoise`` is below 1."""
    steps = settings.steps
    calls = [
        len(guidance.branches)
        + (index in _alg_steps(settings, steps) and "unconditional" in guidance.branches)
        for index, guidance in enumerate(guidance_of(settings, steps))
    ]
    return calls[-max(1, round(settings.denoise * steps)) :]


def _alg_steps(settings: Settings, steps: int) -> range:
    """The indices of the steps in which the image latents are filtered."""
    if settings.alg_ratio == 1:
        return range(0)
    return range(math.floor(settings.alg_end * max(1, steps - 1) + 1e-9) + 1)


def check_layers(settings: Settings, in_torch: bool) -> None:
    """Raise UsageError if the settings change layers of a network that is not PyTorch's."""
    if (settings.stg_scale or settings.pag_scale) and not in_torch:
        raise UsageError(
            "stg_scale and pag_scale change layers of the network, which must be a single one in PyTorch; use 0 for "
            "both, or one model with the backend torch"
        )


def weak_layers(settings: Settings, network: object) -> dict[Branch, list[SelfAttention]]:
    """The layers of a network that are weakened in some branches; raises as :func:`check_layers`."""
    check_layers(settings, isinstance(network, VideoUNet))
    if not isinstance(network, VideoUNet) or not (settings.stg_scale or settings.pag_scale):
        return {}
    return {"stg": stg_layers(network), "pag": pag_layers(network)}


def weaken(layers: Mapping[Branch, Sequence[SelfAttention]]) -> EvaluateWrapper:
    """Evaluate the branches in ``layers`` as "full" with these layers weakened."""

    def wrap(evaluate: Evaluate) -> Evaluate:
        def evaluated(x: Tensor, timestep: int, branches: Sequence[Branch]) -> Sequence[Tensor]:
            plain: list[Branch] = [branch for branch in branches if branch not in layers]
            outputs = dict(zip(plain, evaluate(x, timestep, plain), strict=True))
            for branch in branches:
                if branch in layers:
                    with weakened(layers[branch]):
                        (outputs[branch],) = evaluate(x, timestep, ["full"])
            return [outputs[branch] for branch in branches]

        return evaluated

    return wrap if layers else lambda evaluate: evaluate


def filter_images(filtered: Evaluate, timesteps: Collection[int]) -> EvaluateWrapper:
    """Adaptive low-pass guidance (arXiv 2506.08456): at ``timesteps``, guidance of ``filtered`` evaluations, whose
    image latents are filtered, on the unfiltered unconditional one.

    ``u + w (c_filtered - u_filtered)``: as the weights of the branches add up to 1, ``u - u_filtered`` is added to
    each of them.
    """

    def wrap(evaluate: Evaluate) -> Evaluate:
        def evaluated(x: Tensor, timestep: int, branches: Sequence[Branch]) -> Sequence[Tensor]:
            if timestep not in timesteps:
                return evaluate(x, timestep, branches)
            outputs = filtered(x, timestep, branches)
            if "unconditional" not in branches:
                return outputs
            (unfiltered,) = evaluate(x, timestep, ["unconditional"])
            shift = unfiltered - outputs[branches.index("unconditional")]
            return [output + shift for output in outputs]

        return evaluated

    return wrap


def run(
    settings: Settings,
    config: DiffusionConfig,
    evaluate: Evaluate,
    draw: Callable[[], Tensor],
    *,
    noise: Tensor | None = None,
    source: SourceClip | None = None,
    layers: Mapping[Branch, Sequence[SelfAttention]] | None = None,
    filtered: Evaluate | None = None,
    callback: Callback | None = None,
    denoise_wrappers: Sequence[DenoiseWrapper] = (),
) -> Tensor:
    """Latents ``[b, 4, t, h, w]`` float32, sampled as ``settings`` say.

    ``draw`` returns new standard normal noise of that shape; the first is the noise to start from, unless it is given
    as ``noise``. ``source`` is needed if ``denoise`` is below 1, ``layers`` are :func:`weak_layers`, and ``filtered``
    evaluates with filtered image latents, which is needed if ``alg_ratio`` is below 1. ``denoise_wrappers`` are applied
    in order, each to the result of the previous one.
    """
    schedule = make_schedule(config)
    whole = steps_of(settings, schedule)
    plan = whole.last(settings.denoise)
    weak = weaken(layers or {})
    evaluate = weak(evaluate)
    if settings.alg_ratio < 1 and filtered is not None:
        descending = whole.timesteps[::-1]
        chosen = {descending[index] for index in _alg_steps(settings, len(descending))}
        evaluate = filter_images(weak(filtered), chosen)(evaluate)
    if settings.apg:
        evaluate = project_guidance(schedule, settings.apg_eta, settings.apg_norm, settings.apg_momentum)(
            evaluate
        )
    noise = draw() if noise is None else noise
    guidance = guidance_of(settings, len(whole.timesteps), noise.device)
    denoise = make_denoiser(evaluate, schedule, dict(zip(whole.timesteps[::-1], guidance, strict=True)))
    masked = source is not None and source.mask is not None
    if source is not None and masked:
        denoise = keep_unmasked(source, plan, noise)(denoise)
    for wrap in denoise_wrappers:
        denoise = wrap(denoise)
    x = noise
    if source is not None and settings.denoise < 1:
        x = schedule.noised(source.latents, noise, plan.timesteps[-1])
    elif settings.analytic_init:
        x = analytic_of(settings).start(plan, noise)
    x = SAMPLERS[settings.sampler](denoise, plan, x, draw, callback)
    # The other samplers end at the clean latents.
    end = plan.end if settings.sampler == "ddim" else 1.0
    if source is not None and masked:
        x = put_back(x, source, plan, end)
    return x / end if settings.contrast == "restored" else x
