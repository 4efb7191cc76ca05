"""The CLIP image encoder whose projected embedding is the whole context of both networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..model.encoders import CLIP_MEAN, CLIP_STD, creating_on
from ..model.open_clip_modules import open_clip_module
from ..model.operations import PLAIN, Operations
from .config import EmbedderConfig

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageEmbedder(nn.Module):
    """open_clip's vision transformer with quick GELU, final norm and projection."""

    def __init__(self, config: EmbedderConfig, operations: Operations = PLAIN) -> None:
        super().__init__()
        module = open_clip_module("transformer")
        with creating_on(operations.device or "cpu"):
            tower = module.VisionTransformer(
                image_size=config.image_size,
                patch_size=config.patch,
                width=config.width,
                layers=config.layers,
                heads=config.heads,
                mlp_ratio=config.inner / config.width,
                act_layer=module.QuickGELU,
            )
        self.config = config
        self.class_embedding = tower.class_embedding
        self.positional_embedding = tower.positional_embedding
        self.conv1 = tower.conv1
        self.ln_pre: nn.Module = tower.ln_pre
        self.transformer = tower.transformer
        self.ln_post: nn.Module = tower.ln_post
        self.visual_projection = operations.layers.Linear(
            config.width, config.out_dim, bias=False, **operations.factory
        )
        self.to(operations.dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        """CLIP input ``[b, 3, s, s]`` to the context ``[b, 1, d]``, which is not normalised."""
        weight = self.positional_embedding
        x = self.conv1(pixels.to(weight.device, weight.dtype)).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(x.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([first, x], dim=1) + weight)
        for block in self.transformer.resblocks:
            x = block(x)
        return self.visual_projection(self.ln_post(x[:, :1]))


def embedder_pixels(picture: Image, size: int = 224) -> Tensor:
    """An image as the embedder's input ``[1, 3, size, size]``: stretched by Pillow's bicubic filter on 8 bits."""
    from PIL.Image import Resampling

    stretched = picture.convert("RGB").resize((size, size), Resampling.BICUBIC)
    pixels = torch.as_tensor(np.array(stretched)).float() / 255
    return ((pixels - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).movedim(-1, 0)[None]
