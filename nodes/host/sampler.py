"""The exact sampler on the host-managed network: the host evaluates the network, our samplers do the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.samplers
import torch
from einops import rearrange
from torch import Tensor

from ...dynamicrafter.diffusion.config import Spacing
from ...dynamicrafter.diffusion.denoiser import limit_guidance, make_denoiser
from ...dynamicrafter.diffusion.guidance import Branch, Guidance
from ...dynamicrafter.diffusion.samplers import SAMPLERS, Step
from ...dynamicrafter.diffusion.schedule import Plan, make_plan, make_schedule
from ...dynamicrafter.model.conditioning import KeyLatents
from .memory import make_room, out_of_memory
from .model import KEYFRAMES, posterior_noise
from .run import PlayedPreview, Progress, check_latent, get_previewer, intermediate, is_out_of_memory
from .sampling import PlainSampling


class _Guider(comfy.samplers.CFGGuider):
    """Contains a conditioning for each branch of the guidance."""

    def set_branches(self, branches: dict[Branch, Any]) -> None:
        # The host uses "positive" as the entry from which it completes others.
        self.inner_set_conds({("positive" if name == "full" else name): c for name, c in branches.items()})

    def branch(self, name: Branch) -> Any:
        return self.conds["positive" if name == "full" else name]


class _Evaluations:
    """The package's Evaluate: all branches at once while memory allows, one by one after that."""

    def __init__(self, guider: _Guider, model_options: dict[str, Any]) -> None:
        self.guider = guider
        self.model_options = model_options
        self.together = True

    def __call__(self, clip: Tensor, timestep: int, branches: Sequence[Branch]) -> list[Tensor]:
        """Network outputs ``[1, 4, t, h, w]`` for latents of that shape."""
        return [_clip(output) for output in self._outputs(_flat(clip), timestep, branches)]

    def _outputs(self, x: Tensor, timestep: int, branches: Sequence[Branch]) -> list[Tensor]:
        t = torch.full((x.shape[0],), float(timestep), device=x.device)
        conds = [self.guider.branch(name) for name in branches]
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


_FOREIGN_GUIDANCE = ("sampler_pre_cfg_function", "sampler_post_cfg_function")
"""Options in which nodes of the host add functions around the combination of the branches, which is ours here."""


def sample_exactly(
    model: Any,
    branches: dict[Branch, Any],
    guidance: Guidance,
    latent: Tensor,
    *,
    guided: tuple[float, float] = (0.0, 1.0),
    steps: int,
    sampler: str,
    spacing: Spacing,
    eta: float,
    seed: int,
) -> Tensor:
    """Latents ``[t, 4, h, w]`` in the host's (unscaled) convention; the same as the command line's.

    ``guided`` are the fractions of the steps between which guidance applies.
    They are where the host's own samplers leave theirs, see :func:`~.run.intermediate`.

    Raises ValueError for a latent of another kind of model and for conditioning without an image; RuntimeError with
    the memory needed and free if there is not enough for a single branch.
    """
    variant = model.model.variant
    check_latent(latent)
    keyframes = keyframes_of(branches["full"])
    schedule = make_schedule(variant.diffusion)
    plan = make_plan(schedule, spacing, steps, eta)
    generator = torch.Generator().manual_seed(seed)
    posterior_noise(generator, keyframes)

    def draw() -> Tensor:
        return torch.randn((1, latent.shape[1], len(latent), *latent.shape[2:]), generator=generator)

    return run_plan(
        model,
        branches,
        guidance,
        plan,
        draw,
        guided=guided,
        sampler=sampler,
        fps=variant.preset.fps,
        seed=seed,
    )


def run_plan(
    model: Any,
    branches: dict[Branch, Any],
    guidance: Guidance,
    plan: Plan,
    draw: Callable[[], Tensor],
    *,
    guided: tuple[float, float] = (0.0, 1.0),
    sampler: str = "ddim",
    fps: float,
    seed: int,
) -> Tensor:
    """Latents as :func:`sample_exactly` returns them, by the steps of ``plan`` from noise that ``draw`` makes.

    ``draw`` returns ``[1, 4, t, h, w]`` on the CPU, and its first result sets the shape; ``fps`` is that of previews.
    """
    if any(model.model_options.get(name) for name in _FOREIGN_GUIDANCE):
        raise ValueError(
            "this sampler does not support guidance added to the model by other nodes yet; remove the node that adds "
            "it, such as Perturbed-Attention Guidance"
        )
    plain = model.clone()
    # The host then passes latents, timesteps and outputs through unchanged.
    plain.add_object_patch("model_sampling", PlainSampling(model.get_model_object("model_sampling")))

    def run(guider: _Guider, model_options: dict[str, Any], noise: Tensor) -> Tensor:
        evaluate = _Evaluations(guider, model_options)
        denoise = limit_guidance(evaluate, plan, *guided)(make_denoiser(evaluate, plan.schedule, guidance))
        progress = Progress(len(plan.timesteps))
        previewer = get_previewer(noise.device, model.model.latent_format)
        preview = PlayedPreview(progress, previewer, fps)

        def stepped(step: Step) -> None:
            progress.update(step.index + 1)
            preview.show(_flat(step.x0))

        def fresh() -> Tensor:
            return draw().to(noise.device)

        try:
            return _flat(SAMPLERS[sampler](denoise, plan, _clip(noise), fresh, stepped))
        finally:
            preview.stop()

    guider = _Guider(plain)
    guider.set_branches(branches)
    first = _flat(draw())
    # The host only looks at the first of these, to see whether all noise is to be removed.
    levels = torch.tensor([float(plan.timesteps[-1]), 0.0])
    try:
        sampled = guider.sample(first, torch.zeros_like(first), _ExactSampler(run), levels, seed=seed)
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise
        what = f"one evaluation at {first.shape[3] * 8}x{first.shape[2] * 8} with {len(first)} frames"
        advice = "use a smaller size or fewer frames, or start ComfyUI with --novram"
        needed = model.model.memory_required(first.shape)
        raise out_of_memory(what, needed, model.load_device, advice) from problem
    if not torch.isfinite(sampled).all():
        raise RuntimeError(
            "the network's output is not finite; set weight_dtype to bfloat16 or float32 in the loader"
        )
    return intermediate(sampled)


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
