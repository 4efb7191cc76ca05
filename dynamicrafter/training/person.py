"""The diffusion loss of the network pair of AnimateAnyone and its pose guider, in both stages of training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..animate_anyone.attention import Reference
from ..animate_anyone.pose_guider import PoseGuider
from ..animate_anyone.unet import DenoisingUNet, ReferenceUNet
from ..diffusion.schedule import TRAIN_STEPS, Schedule
from .losses import add_noise, min_snr_weight, per_sample

PersonPhase = Literal["pictures", "motion"]
"""First single images, with everything but motion modules; then clips, with the motion modules alone."""

_HIGH_SHARE, _HIGH_FROM = 0.45, 800
"""Share of the samples with the timesteps from there on, at which pose and colours are decided."""


class PersonLoss(nn.Module):
    """The networks with the loss of a batch of latents, poses and references."""

    def __init__(
        self,
        reference: ReferenceUNet,
        denoising: DenoisingUNet,
        pose_guider: PoseGuider,
        schedule: Schedule,
        min_snr: float | None = None,
    ) -> None:
        super().__init__()
        self.reference = reference
        self.denoising = denoising
        self.pose_guider = pose_guider
        self._schedule = schedule
        self._min_snr = min_snr

    def predict(
        self, x: Tensor, t: Tensor, poses: Tensor, seen: Tensor, context: Tensor, kept: Tensor
    ) -> Tensor:
        """The velocity of noisy latents ``[n, 4, f, h, w]``; other arguments as in :meth:`forward`."""
        pose = self.pose_guider(poses.to(x.dtype) / 255)
        # Run even if no row keeps it, since with several processes each weight must take part in each step.
        features = self.reference(seen, context)
        projected = self.denoising.project(features)
        each = len(x) // len(seen)
        owner = torch.arange(len(seen), device=x.device).repeat_interleave(each)
        made = x.new_zeros(x.shape, dtype=torch.float32)
        for conditional in (True, False):
            rows = (kept[owner] == conditional).nonzero()[:, 0]
            if not len(rows):
                continue
            bank: Reference = {
                path: (keys[owner[rows]], values[owner[rows]]) for path, (keys, values) in projected.items()
            }
            about = context[owner[rows]]
            some = self.denoising(
                x[rows],
                t[rows],
                about if conditional else torch.zeros_like(about),
                pose[rows],
                bank if conditional else None,
            )
            made = made.index_copy(0, rows, some.float())
        if not kept.any():
            made = made + 0 * sum(keys.sum() + values.sum() for keys, values in projected.values())
        return made

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        t: Tensor,
        poses: Tensor,
        seen: Tensor,
        context: Tensor,
        kept: Tensor,
    ) -> Tensor:
        """The mean loss of a batch.

        ``latents`` and ``noise`` are ``[n, 4, f, h, w]``, ``t`` is ``[n]`` and ``poses`` are drawings, uint8
        ``[n, 3, f, H, W]``. ``seen`` are latents of references ``[b, 4, h, w]``, each for n / b consecutive rows, with
        their ``context`` ``[b, 1, d]``; where ``kept``, boolean ``[b]``, is False, both are withheld.
        """
        noised = add_noise(latents, noise, t, self._schedule)
        said = self.predict(noised.x, t, poses, seen, context, kept)
        losses = per_sample(said, noised.target)
        if self._min_snr is not None:
            losses = losses * min_snr_weight(t, self._schedule, self._min_snr)
        return losses.mean()


_WITHOUT_EFFECT = (
    *(f"transformer_blocks.0.{name}." for name in ("attn1", "attn2", "norm3", "ff")),
    "proj_out.",
)
"""In the reference network's last transformer: what follows the norm whose output is handed over."""


def choose_phase(loss: PersonLoss, phase: PersonPhase, *, whole_reference: bool = False) -> None:
    """Select the weights that are trained: the motion modules, or all others.

    Without ``whole_reference``, as in the released recipe, the last stage of the reference network is not trained. With
    it, all of its weights are that have an effect.
    """
    for name, parameter in loss.named_parameters():
        parameter.requires_grad_(("motion_modules" in name) == (phase == "motion"))
    if phase == "motion":
        return
    if not whole_reference:
        loss.reference.up_blocks[-1].requires_grad_(False)
    last = list(loss.reference.transformers().values())[-1]
    for name, parameter in last.named_parameters():
        if name.startswith(_WITHOUT_EFFECT):
            parameter.requires_grad_(False)


def high_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """``[count]`` timesteps: 45 % from 800 to 999, the rest from all; the first is 999, where sampling begins."""
    anything = torch.randint(TRAIN_STEPS, (count,), generator=generator)
    high = torch.randint(_HIGH_FROM, TRAIN_STEPS, (count,), generator=generator)
    t = torch.where(torch.rand(count, generator=generator) < _HIGH_SHARE, high, anything)
    t[0] = TRAIN_STEPS - 1
    return t


@torch.no_grad()
def scale_pose_guider(guider: PoseGuider, poses: Tensor) -> None:
    """Scale every convolution so that its output has a deviation of 1 on drawings ``[n, 3, f, H, W]`` in 0..1.

    With PyTorch's own initialisation, features of different poses are all but equal, and hundreds of steps pass before
    the pose has an effect.
    """

    def scaled(layer: nn.Module, _: object, made: Tensor) -> Tensor:
        weight = layer.get_parameter("weight")
        centre = made.mean((0, 2, 3), keepdim=True)
        spread = (made - centre).std()
        weight /= spread
        layer.get_parameter("bias").zero_()
        return made / spread

    for module in guider.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.get_parameter("bias"))
    hooks = [m.register_forward_hook(scaled) for m in guider.modules() if isinstance(m, nn.Conv2d)]
    guider(poses)
    for hook in hooks:
        hook.remove()
