"""The exact sampler on the host-managed network: the host evaluates the network, our samplers do the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.patcher_extension
import comfy.samplers
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ...dynamicrafter.diffusion.finite import finite_steps
from ...dynamicrafter.diffusion.guidance import Branch
from ...dynamicrafter.diffusion.samplers import Callback, Step
from ...dynamicrafter.diffusion.schedule import make_schedule
from ...dynamicrafter.diffusion.start import SourceClip, latent_mask
from ...dynamicrafter.model.conditioning import KeyLatents, repeat_picture
from ...dynamicrafter.model.configs import LATENT_FACTOR
from ...dynamicrafter.model.protocols import Context, Network, NetworkWrapper
from ...dynamicrafter.motion.extent import frames_at_once
from ...dynamicrafter.motion.windowed import needs_windows, over_windows, reschedule
from ...dynamicrafter.sampling import run, steps_of, weak_layers
from ...dynamicrafter.settings import Settings
from ..words import in_words_of_the_graph
from .memory import make_room, out_of_memory
from .model import IMAGE_NOISE, KEYFRAMES, LOW_PASS, NETWORK_WRAPPER, posterior_noise
from .run import (
    PartOfProgress,
    PlayedPreview,
    Progress,
    check_cancelled,
    check_latent,
    get_previewer,
    intermediate,
    is_out_of_memory,
)
from .sampling import PlainSampling


class _Guider(comfy.samplers.CFGGuider):
    """Contains a conditioning for each branch of the guidance."""

    def set_branches(self, branches: dict[str, Any]) -> None:
        # The host uses "positive" as the entry from which it completes others.
        self.inner_set_conds({("positive" if name == "full" else name): c for name, c in branches.items()})

    def branch(self, name: str) -> Any:
        return self.conds["positive" if name == "full" else name]


class _Evaluations:
    """The package's Evaluate: all branches at once while memory allows, one by one after that."""

    def __init__(self, guider: _Guider, model_options: dict[str, Any], prefix: str = "") -> None:
        """``prefix`` is that of the names of the branches in ``guider``."""
        self.prefix = prefix
        self.guider = guider
        self.model_options = model_options
        self.together = True

    def prefixed(self, prefix: str) -> _Evaluations:
        """The same of the branches whose names begin with ``prefix``."""
        return _Evaluations(self.guider, self.model_options, prefix)

    def __call__(self, clip: Tensor, timestep: int, branches: Sequence[Branch]) -> list[Tensor]:
        """Network outputs ``[1, 4, t, h, w]`` for latents of that shape."""
        return [_clip(output) for output in self._outputs(_flat(clip), timestep, branches)]

    def _outputs(self, x: Tensor, timestep: int, branches: Sequence[Branch]) -> list[Tensor]:
        t = torch.full((x.shape[0],), float(timestep), device=x.device)
        conds = [self.guider.branch(f"{self.prefix}{name}") for name in branches]
        try:
            return self._evaluate(conds, x, t) if self.together else self._one_by_one(conds, x, t)
        except Exception as problem:
            if not is_out_of_memory(problem) or not self.together:
                raise
        # Out of the handler, so that the traceback's frames do not hold the memory any more.
        self.together = False
        make_room(self.guider.inner_model.memory_required(x.shape), self.guider.model_patcher)
        return self._one_by_one(conds, x, t)

    def _one_by_one(self, conds: list[Any], x: Tensor, t: Tensor) -> list[Tensor]:
        return [out for cond in conds for out in self._evaluate([cond], x, t)]

    def _evaluate(self, conds: list[Any], x: Tensor, t: Tensor) -> list[Tensor]:
        outputs = comfy.samplers.calc_cond_batch(self.guider.inner_model, conds, x, t, self.model_options)
        return [output.float() for output in outputs]


class _ExactSampler(comfy.samplers.Sampler):
    """One of our samplers instead of one of the host's."""

    def __init__(self, run: Callable[[_Guider, dict[str, Any], Tensor], Tensor]) -> None:
        self.run = run

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Any = None,
        denoise_mask: Any = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Called by the host with the model loaded; everything else was fixed before."""
        return self.run(model_wrap, extra_args.get("model_options", {}), noise)


_FILTERED = "filtered_"
"""Prefix of the branches whose image latents are filtered."""
_FOREIGN = (
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function",
    "denoise_mask_function",
)
"""Options in which nodes of the host change what is ours here: how branches are combined and what is masked."""


def sample_exactly(
    model: Any,
    branches: dict[Branch, Any],
    latent: Tensor,
    settings: Settings,
    *,
    mask: Tensor | None = None,
    held: bool = False,
    generator: torch.Generator | None = None,
    progress: PartOfProgress | None = None,
) -> Tensor:
    """Latents ``[t, 4, h, w]`` in the host's (unscaled) convention; the same as the command line's.

    They are where the host's own samplers leave theirs, see :func:`~.run.intermediate`. Of ``settings``, those of
    sampling apply. ``latent`` is the clip to start from; an empty one, or any if ``held``, is the image held still.
    ``mask`` is the host's, of one or all frames: 1 may change. All random numbers are from ``generator``, by default a
    new one with the seed; ``progress`` is by default that of the node.

    Raises ValueError for a latent of another kind of model and for conditioning without an image; RuntimeError with
    the memory needed and free if there is not enough for a single branch.
    """
    variant = model.model.variant
    check_latent(latent)
    keyframes = keyframes_of(branches["full"])
    frames = latent.shape[0]
    windowed = needs_windows(settings)
    if windowed and "context_handler" in model.model_options:
        raise ValueError(
            "length_method windows and Context Windows both split the clip; remove the Context Windows node, or use "
            "another length_method"
        )
    own = torch.Generator().manual_seed(settings.seed) if generator is None else generator
    drawn = keyframes.drawn(posterior_noise(own, keyframes))
    if generator is not None:
        # Without a generator of the caller's, the model draws the same ones from the seed.
        branches = {name: _with(cond, KEYFRAMES, drawn) for name, cond in branches.items()}
    source = None
    if mask is not None or settings.denoise < 1:
        if held or not latent.any():
            if not keyframes.everywhere and keyframes.differ:
                raise ValueError(
                    "denoise below 1 and a mask need a clip to start from when two images are interpolated; connect "
                    "its latents instead of an empty latent"
                )
            clean = repeat_picture(drawn.keys[0].mean, frames)
        else:
            clean = _clip(model.model.process_latent_in(latent.float()))
        source = SourceClip(clean, None if mask is None else _mask_of(mask, latent))

    def draw() -> Tensor:
        noise = torch.randn((1, latent.shape[1], frames, *latent.shape[2:]), generator=own)
        return reschedule(noise, [own]) if windowed else noise

    first = draw()
    if settings.image_noise:
        extra = settings.image_noise * draw()[:, :, :1]
        branches = {name: _with(cond, IMAGE_NOISE, extra) for name, cond in branches.items()}
    entries: dict[str, Any] = {**branches}
    if settings.alg_ratio < 1:
        entries |= {
            f"{_FILTERED}{name}": _with(c, LOW_PASS, settings.alg_ratio) for name, c in branches.items()
        }

    def sampled(evaluate: _Evaluations, noise: Tensor, stepped: Callback) -> Tensor:
        return run(
            settings,
            variant.diffusion,
            evaluate,
            lambda: draw().to(noise.device),
            noise=noise,
            source=None if source is None else source.to(noise.device),
            layers=weak_layers(settings, model.model.diffusion_model),
            filtered=evaluate.prefixed(_FILTERED),
            callback=stepped,
        )

    return run_exactly(
        model,
        entries,
        first,
        sampled,
        timesteps=steps_of(settings, make_schedule(variant.diffusion)).last(settings.denoise).timesteps[::-1],
        fps=variant.preset.fps,
        seed=settings.seed,
        wrapper=over_windows(settings) if windowed else None,
        at_once=frames_at_once(settings) if windowed else frames,
        progress=progress,
    )


def run_exactly(
    model: Any,
    branches: dict[str, Any],
    first: Tensor,
    sampled_by: Callable[[_Evaluations, Tensor, Callback], Tensor],
    *,
    timesteps: Sequence[int],
    fps: float,
    seed: int,
    wrapper: NetworkWrapper | None = None,
    at_once: int | None = None,
    progress: PartOfProgress | None = None,
) -> Tensor:
    """Latents as :func:`sample_exactly` returns them, which ``sampled_by`` makes of noise ``[1, 4, t, h, w]``.

    ``sampled_by`` gets the evaluations of the host's network under ``branches``, ``first`` on its device, and a
    callback for each of its steps, which are at ``timesteps``. ``fps`` is that of previews. If a ``wrapper`` evaluates
    the network on some frames at a time, ``at_once`` is how many.
    """
    foreign = [name for name in _FOREIGN if model.model_options.get(name)]
    if foreign:
        raise ValueError(
            f"this sampler does not support what a node has added to the model ({', '.join(foreign)}); remove the "
            f"node, such as Perturbed-Attention Guidance, and use DynamiCrafter Techniques instead"
        )
    plain = model.clone()
    # The host then passes latents, timesteps and outputs through unchanged.
    plain.add_object_patch("model_sampling", PlainSampling(model.get_model_object("model_sampling")))
    at_once = at_once or first.shape[2]
    if wrapper is not None:
        plain.model_options["transformer_options"][NETWORK_WRAPPER] = _cancellable(wrapper)
        _estimate_by(plain, at_once)

    def work(guider: _Guider, model_options: dict[str, Any], noise: Tensor) -> Tensor:
        bar = Progress(len(timesteps)) if progress is None else progress.of(len(timesteps))
        previewer = get_previewer(noise.device, model.model.latent_format)
        preview = PlayedPreview(bar, previewer, fps)

        def stepped(step: Step) -> None:
            bar.update(step.index + 1)
            preview.show(_flat(step.x0))

        checked = finite_steps(model.model.manual_cast_dtype or model.model.get_dtype(), stepped)
        try:
            with in_words_of_the_graph():
                return _flat(sampled_by(_Evaluations(guider, model_options), _clip(noise), checked))
        finally:
            preview.stop()

    guider = _Guider(plain)
    guider.set_branches(branches)
    first = _flat(first)
    # By these, the host's Context Windows knows which step it is in.
    levels = torch.tensor([*timesteps, 0.0])
    try:
        sampled = guider.sample(first, torch.zeros_like(first), _ExactSampler(work), levels, seed=seed)
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        what = f"one evaluation at {first.shape[3] * 8}x{first.shape[2] * 8} with {at_once} frames"
        advice = "use a smaller size or fewer frames, or start ComfyUI with --novram"
        needed = model.model.memory_required((at_once, *first.shape[1:]))
        raise out_of_memory(what, needed, model.load_device, advice) from problem
    return intermediate(sampled)


def _cancellable(wrapper: NetworkWrapper) -> NetworkWrapper:
    """``wrapper``, which may evaluate a network many times in a step, so that a person can cancel before each."""

    def wrap(network: Network) -> Network:
        def evaluate(x: Tensor, timesteps: Tensor, context: Context, fs: Tensor) -> Tensor:
            check_cancelled()
            return network(x, timesteps, context, fs)

        return wrapper(evaluate)

    return wrap


def _estimate_by(model: Any, frames: int) -> None:
    """Let the host estimate the memory of sampling by ``frames``, fewer than the latents have."""

    def prepare(executor: Any, patcher: Any, shape: Any, *arguments: Any, **named: Any) -> Any:
        return executor(patcher, [min(frames, shape[0]), *shape[1:]], *arguments, **named)

    kind = comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING
    model.add_wrapper_with_key(kind, "dynamicrafter", prepare)


def _with(conditioning: Any, key: str, value: Any) -> Any:
    """A copy of a conditioning whose entries also have ``value`` as ``key``."""
    return [[text, {**options, key: value}] for text, options in conditioning]


def _mask_of(mask: Tensor, latent: Tensor) -> Tensor:
    """The host's noise mask as that of latents, ``[1, 1, 1 or t, h, w]``; raises ValueError for other frames."""
    frames, _, height, width = latent.shape
    pixels = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    if len(pixels) not in (1, frames):
        raise ValueError(
            f"the noise mask has {len(pixels)} frames, but the clip has {frames}; use one mask, or one for each frame"
        )
    # As the host does, which keeps masks in whatever size they were painted.
    pixels = F.interpolate(pixels, (height * LATENT_FACTOR, width * LATENT_FACTOR), mode="bilinear")
    return rearrange(latent_mask(pixels.clamp(0, 1), LATENT_FACTOR), "t 1 1 h w -> 1 1 t h w")


def _clip(flat: Tensor) -> Tensor:
    return rearrange(flat, "t c h w -> 1 c t h w")


def _flat(clip: Tensor) -> Tensor:
    return rearrange(clip, "1 c t h w -> t c h w")


def keyframes_of(conditioning: Any) -> KeyLatents:
    """The key frames of a conditioning; raises ValueError if it has none."""
    for _, options in conditioning:
        if KEYFRAMES in options:
            return options[KEYFRAMES]
    raise ValueError(
        "the positive conditioning has no image; connect the output of DynamiCrafter Image Conditioning, "
        "Interpolation or Looping"
    )
