"""From drawn poses to features of the size of latents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.operations import PLAIN, Operations
from .config import PoseGuiderConfig


class PoseGuider(nn.Module):
    """Convolutions with SiLU between them; the last one starts training at zero."""

    def __init__(self, config: PoseGuiderConfig, operations: Operations = PLAIN) -> None:
        super().__init__()
        conv = operations.layers.Conv2d
        widths = config.widths
        self.conv_in = conv(3, widths[0], 3, padding=1, **operations.factory)
        self.blocks = nn.ModuleList()
        for width, following in pairwise(widths):
            self.blocks.append(conv(width, width, 3, padding=1, **operations.factory))
            self.blocks.append(conv(width, following, 3, stride=2, padding=1, **operations.factory))
        self.conv_out = conv(widths[-1], config.out_channels, 3, padding=1, **operations.factory)

    def forward(self, poses: Tensor) -> Tensor:
        """Poses ``[b, 3, f, H, W]`` in [0, 1] to features ``[b, c, f, H / 8, W / 8]``, each frame by itself."""
        h = rearrange(poses, "b c f h w -> (b f) c h w")
        for layer in self._layers():
            h = F.silu(layer(h), inplace=True)
        return rearrange(self.conv_out(h), "(b f) c h w -> b c f h w", b=poses.shape[0])

    def _layers(self) -> Iterator[nn.Module]:
        yield self.conv_in
        yield from self.blocks
