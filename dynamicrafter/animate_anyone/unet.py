"""The pair of networks: one sees the reference image once, the other denoises the clip and attends to what it saw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.layers import Downsample, Upsample, sinusoidal_embedding
from ..model.operations import PLAIN, Operations
from .attention import Features, MotionModule, Reference, ReferenceTransformer
from .config import PairConfig
from .layers import TimedResBlock, TimeEmbedding


class UNetStage(nn.Module):
    """Residual blocks of one resolution, each followed by a spatial transformer and a motion module, where it has them.

    The middle has one residual block more than transformers.
    """

    def __init__(
        self,
        ins: list[int],
        width: int,
        config: PairConfig,
        attended: bool,
        motion: bool,
        operations: Operations,
        middle: bool = False,
    ) -> None:
        super().__init__()
        embedding = 4 * config.widths[0]
        count = len(ins) - middle
        self.attended = count if attended else 0
        """Number of residual blocks that a spatial transformer follows."""
        self.moving = count if motion else 0
        """Number of residual blocks that a motion module follows."""
        self.resnets = nn.ModuleList(
            TimedResBlock(channels, width, embedding, config.norm_groups, operations) for channels in ins
        )
        self.attentions = nn.ModuleList(
            ReferenceTransformer(width, config.heads, config.context_dim, config.norm_groups, operations)
            for _ in range(self.attended)
        )
        self.motion_modules = nn.ModuleList(MotionModule(width, operations) for _ in range(self.moving))


@dataclass(frozen=True)
class _Surroundings:
    """What the stages need besides their input."""

    context: Tensor
    frames: int
    reference: Reference
    features: dict[str, Tensor] | None = None
    """Filled with what each transformer's attention sees, if given."""


class _Trunk(nn.Module):
    """What the two networks have in common."""

    def __init__(self, config: PairConfig, motion: bool, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        widths = config.widths
        last = len(widths) - 1
        self.config = config
        self.time_embedding = TimeEmbedding(widths[0], operations)
        self.conv_in = ops.Conv2d(4, widths[0], 3, padding=1, **operations.factory)

        self.down_blocks = nn.ModuleList()
        channels, skips = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            ins = [channels] + [width] * (config.blocks - 1)
            stage = UNetStage(ins, width, config, level < last, motion, operations)
            skips += [width] * config.blocks
            if level < last:
                stage.downsamplers = nn.ModuleList([Downsample(width, operations)])
                skips.append(width)
            self.down_blocks.append(stage)
            channels = width

        self.mid_block = UNetStage(
            [channels, channels], channels, config, True, motion, operations, middle=True
        )

        self.up_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            ins: list[int] = []
            for _ in range(config.blocks + 1):
                ins.append(channels + skips.pop())
                channels = width
            stage = UNetStage(ins, width, config, level < last, motion, operations)
            if level > 0:
                stage.upsamplers = nn.ModuleList([Upsample(width, operations)])
            self.up_blocks.append(stage)

    def transformers(self) -> dict[str, ReferenceTransformer]:
        """Spatial transformers by path, in the order of execution."""
        stages: list[tuple[str, nn.Module]] = [
            *((f"down_blocks.{i}", stage) for i, stage in enumerate(self.down_blocks)),
            ("mid_block", self.mid_block),
            *((f"up_blocks.{i}", stage) for i, stage in enumerate(self.up_blocks)),
        ]
        return {
            f"{name}.attentions.{j}": module
            for name, stage in stages
            for j, module in enumerate(stage.get_submodule("attentions").children())
            if isinstance(module, ReferenceTransformer)
        }

    def _sinusoids(self, timesteps: Tensor) -> Tensor:
        return sinusoidal_embedding(timesteps, self.config.widths[0])

    def _walk(self, h: Tensor, time: Tensor, surroundings: _Surroundings) -> Tensor:
        """From the first convolution's output ``[(b f), c, h, w]`` to the last stage's."""
        embedding = self.time_embedding(time.to(h.dtype))
        embedding = repeat(embedding, "b e -> (b f) e", f=surroundings.frames)

        # Down. Skip connections are referenced only by this list, so each tensor is freed when it is popped.
        made = [h]
        del h
        for i, stage in enumerate(cast(Iterable[UNetStage], self.down_blocks)):
            for j in range(self.config.blocks):
                h = _residual(stage, j, made[-1], embedding)
                made.append(_attended(stage, f"down_blocks.{i}", j, h, surroundings))
                del h
            if hasattr(stage, "downsamplers"):
                made.append(stage.get_submodule("downsamplers.0")(made[-1]))

        # Middle
        h = _residual(self.mid_block, 0, made[-1], embedding)
        h = _attended(self.mid_block, "mid_block", 0, h, surroundings)
        h = _residual(self.mid_block, 1, h, embedding)

        # Up
        for i, stage in enumerate(cast(Iterable[UNetStage], self.up_blocks)):
            for j in range(self.config.blocks + 1):
                # Without a name, the widest tensor is freed before attention.
                h = _residual(stage, j, torch.cat([h, made.pop()], dim=1), embedding)
                h = _attended(stage, f"up_blocks.{i}", j, h, surroundings)
            if hasattr(stage, "upsamplers"):
                # The size of the next skip connection, which is not the double where the sizes are odd.
                h = stage.get_submodule("upsamplers.0")(h, made[-1].shape[-2:])
        return h


def _residual(stage: UNetStage, index: int, h: Tensor, embedding: Tensor) -> Tensor:
    return stage.get_submodule(f"resnets.{index}")(h, embedding)


def _attended(stage: UNetStage, name: str, index: int, h: Tensor, surroundings: _Surroundings) -> Tensor:
    """The transformer and the motion module that follow a residual block, if the stage has them."""
    if index < stage.attended:
        path = f"{name}.attentions.{index}"
        transformer = stage.get_submodule(f"attentions.{index}")
        h, features = transformer(h, surroundings.context, surroundings.reference.get(path))
        if surroundings.features is not None:
            surroundings.features[path] = features
    if index < stage.moving:
        h = stage.get_submodule(f"motion_modules.{index}")(h, surroundings.frames)
    return h


class ReferenceUNet(_Trunk):
    """Sees the latent of the reference image, once per clip; has neither motion modules nor an output layer."""

    def __init__(self, config: PairConfig, operations: Operations = PLAIN) -> None:
        super().__init__(config, motion=False, operations=operations)

    def forward(self, latents: Tensor, context: Tensor) -> dict[str, Tensor]:
        """Features of latents ``[b, 4, h, w]`` at timestep 0, ``[b, n, c]`` by the path of each spatial transformer.

        ``context`` is ``[b, 1, d]``.
        """
        features: dict[str, Tensor] = {}
        time = self._sinusoids(torch.zeros(latents.shape[0], device=latents.device))
        self._walk(self.conv_in(latents), time, _Surroundings(context, 1, {}, features))
        return features


class DenoisingUNet(_Trunk):
    """Predicts the velocity of a clip's latents.

    ``motion`` is False for the image stage of training, which has no motion modules.
    """

    def __init__(self, config: PairConfig, operations: Operations = PLAIN, motion: bool = True) -> None:
        super().__init__(config, motion, operations)
        ops = operations.layers
        first = config.widths[0]
        self.conv_norm_out = ops.GroupNorm(config.norm_groups, first, eps=1e-5, **operations.factory)
        self.conv_out = ops.Conv2d(first, 4, 3, padding=1, **operations.factory)

    def project(self, features: Features) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys and values of a reference's features; they are the same at all steps and in all windows."""
        transformers = self.transformers()
        if features.keys() != transformers.keys():
            wrong = sorted(features.keys() ^ transformers.keys())
            raise ValueError(
                f"the reference network has other transformers than this one ({', '.join(wrong)}); "
                "use the two networks of one model"
            )
        return {path: transformers[path].project(tokens) for path, tokens in features.items()}

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        pose: Tensor | None = None,
        reference: Reference | None = None,
    ) -> Tensor:
        """One evaluation.

        ``x`` is ``[b, 4, f, h, w]`` with 1 to 32 frames, ``timesteps`` ``[b]`` or ``[1]``, ``context`` ``[b, 1, d]``,
        ``pose`` features ``[b or 1, c, f, h, w]``. ``reference`` is what all rows attend to; None, as in the
        unconditional evaluation, is plain self-attention. Returns ``[b, 4, f, h, w]``.
        """
        return self.from_sinusoids(x, self._sinusoids(timesteps), context, pose, reference)

    def from_sinusoids(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        pose: Tensor | None = None,
        reference: Reference | None = None,
    ) -> Tensor:
        """As :meth:`forward`, with the sinusoids ``[b or 1, c]`` of the timesteps.

        Their frequencies need float32, whatever a runtime does with constants.
        """
        rows, _, frames = x.shape[:3]
        h = self.conv_in(rearrange(x, "b c f h w -> (b f) c h w"))
        if pose is not None:
            h = h + rearrange(pose.expand(rows, -1, -1, -1, -1), "b c f h w -> (b f) c h w")
        h = self._walk(h, time, _Surroundings(context, frames, reference or {}))
        h = self.conv_out(F.silu(self.conv_norm_out(h), inplace=True))
        return rearrange(h, "(b f) c h w -> b c f h w", f=frames)
