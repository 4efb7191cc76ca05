"""The KL autoencoder between images and latents (Stable Diffusion's architecture and names)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .configs import VaeConfig
from .layers import Upsample
from .operations import PLAIN, Operations
from .protocols import Posterior
from .tiles import Tiles, in_tiles


class ResnetBlock(nn.Module):
    """Two norm-SiLU-convolution stages added to the input."""

    def __init__(self, channels: int, out_channels: int, config: VaeConfig, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        groups = config.norm_groups
        self.norm1 = ops.GroupNorm(groups, channels, eps=1e-6, **operations.factory)
        self.conv1 = ops.Conv2d(channels, out_channels, 3, padding=1, **operations.factory)
        self.norm2 = ops.GroupNorm(groups, out_channels, eps=1e-6, **operations.factory)
        self.conv2 = ops.Conv2d(out_channels, out_channels, 3, padding=1, **operations.factory)
        if channels != out_channels:
            self.nin_shortcut = ops.Conv2d(channels, out_channels, 1, **operations.factory)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` to ``[n, c', h, w]``."""
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class PixelAttention(nn.Module):
    """Single-head self-attention over all positions of an image."""

    def __init__(self, channels: int, config: VaeConfig, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        self.attention = operations.attention
        self.norm = ops.GroupNorm(config.norm_groups, channels, eps=1e-6, **operations.factory)
        self.q = ops.Conv2d(channels, channels, 1, **operations.factory)
        self.k = ops.Conv2d(channels, channels, 1, **operations.factory)
        self.v = ops.Conv2d(channels, channels, 1, **operations.factory)
        self.proj_out = ops.Conv2d(channels, channels, 1, **operations.factory)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` in and out."""
        h = self.norm(x)
        q, k, v = (rearrange(layer(h), "n c h w -> n (h w) c") for layer in (self.q, self.k, self.v))
        h = rearrange(self.attention(q, k, v, 1), "n (h w) c -> n c h w", h=x.shape[-2])
        return x + self.proj_out(h)


class AsymmetricDownsample(nn.Module):
    """Convolution with stride 2, padded at the right and bottom only."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        self.conv = operations.layers.Conv2d(channels, channels, 3, stride=2, **operations.factory)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` to ``[n, c, h / 2, w / 2]``."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """The blocks of one resolution, under the names the checkpoints give them."""

    def __init__(
        self, blocks: Sequence[nn.Module], downsample: nn.Module | None, upsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        if downsample is not None:
            self.downsample = downsample
        if upsample is not None:
            self.upsample = upsample


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, block_1: nn.Module, attn_1: nn.Module, block_2: nn.Module) -> None:
        super().__init__()
        self.block_1 = block_1
        self.attn_1 = attn_1
        self.block_2 = block_2


class Encoder(nn.Module):
    """Encodes images to the moments (mean and log variance) of the posterior over latents."""

    def __init__(self, config: VaeConfig, operations: Operations) -> None:
        super().__init__()
        ops = operations.layers
        widths = [config.channels * factor for factor in config.channel_mult]
        self.conv_in = ops.Conv2d(3, config.channels, 3, padding=1, **operations.factory)
        self.down = nn.ModuleList()
        channels = config.channels
        for index, width in enumerate(widths):
            ins = [channels] + [width] * (config.num_res_blocks - 1)
            blocks = [ResnetBlock(c, width, config, operations) for c in ins]
            down = AsymmetricDownsample(width, operations) if index < len(widths) - 1 else None
            self.down.append(Level(blocks, down, None))
            channels = width
        self.mid = Middle(
            ResnetBlock(channels, channels, config, operations),
            PixelAttention(channels, config, operations),
            ResnetBlock(channels, channels, config, operations),
        )
        self.norm_out = ops.GroupNorm(config.norm_groups, channels, eps=1e-6, **operations.factory)
        self.conv_out = ops.Conv2d(channels, 2 * config.latent_channels, 3, padding=1, **operations.factory)

    def forward(self, x: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """``[n, 3, H, W]`` to ``[n, 8, H / 8, W / 8]``.

        ``features``, if given, is filled with the output of each level's last block, then that of the first
        convolution; a video decoder takes them as references.
        """
        h = self.conv_in(x)
        first = h if features is not None else None
        for level in self.down:
            for block in level.get_submodule("block").children():
                h = block(h)
            if features is not None:
                features.append(h)
            if hasattr(level, "downsample"):
                h = level.get_submodule("downsample")(h)
        if features is not None and first is not None:
            features.append(first)
        for block in self.mid.children():
            h = block(h)
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))


class Decoder(nn.Module):
    """Decodes latents to images."""

    def __init__(
        self, config: VaeConfig, operations: Operations, block: type[ResnetBlock] = ResnetBlock
    ) -> None:
        super().__init__()
        ops = operations.layers
        widths = [config.channels * factor for factor in config.channel_mult]
        channels = widths[-1]
        self.conv_in = ops.Conv2d(config.latent_channels, channels, 3, padding=1, **operations.factory)
        self.mid = Middle(
            block(channels, channels, config, operations),
            PixelAttention(channels, config, operations),
            block(channels, channels, config, operations),
        )
        levels: list[nn.Module] = []
        for index, width in reversed(list(enumerate(widths))):
            ins = [channels] + [width] * config.num_res_blocks
            blocks = [block(c, width, config, operations) for c in ins]
            levels.append(Level(blocks, None, Upsample(width, operations) if index > 0 else None))
            channels = width
        self.factor = 2 ** (len(levels) - 1)
        """Pixels for each latent, in both directions."""
        # The checkpoints index the levels from the highest resolution down; the network runs from the lowest one up.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = ops.GroupNorm(config.norm_groups, channels, eps=1e-6, **operations.factory)
        self.conv_out = ops.Conv2d(channels, 3, 3, padding=1, **operations.factory)

    def forward(self, z: Tensor, *, tiles: Tiles | None = None) -> Tensor:
        """``[n, 4, h, w]`` to ``[n, 3, 8 h, 8 w]``; the levels may work in ``tiles``."""
        if tiles is None:
            return self._levels(self._middle(z))
        return in_tiles(lambda part, _: self._levels(part), self._middle(z), tiles, self.factor)

    def _middle(self, z: Tensor) -> Tensor:
        h = self.conv_in(z)
        for block in self.mid.children():
            h = block(h)
        return h

    def _levels(self, h: Tensor) -> Tensor:
        """Everything after the middle, which needs the most memory."""
        for level in reversed(list(self.up)):
            for block in level.get_submodule("block").children():
                h = block(h)
            if hasattr(level, "upsample"):
                h = level.get_submodule("upsample")(h)
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))


class Autoencoder(nn.Module):
    """Converts images in [-1, 1] to scaled latents and back, each frame independently."""

    def __init__(
        self, config: VaeConfig, operations: Operations = PLAIN, decoder: type[Decoder] = Decoder
    ) -> None:
        super().__init__()
        ops = operations.layers
        channels = config.latent_channels
        self.config = config
        self.tiles: Tiles | None = None
        """In what the decoder works, with less memory and slightly different frames; None for the whole image."""
        self.encoder = Encoder(config, operations)
        self.decoder = decoder(config, operations)
        self.quant_conv = ops.Conv2d(2 * channels, 2 * channels, 1, **operations.factory)
        self.post_quant_conv = ops.Conv2d(channels, channels, 1, **operations.factory)

    def encode(self, pictures: Tensor, features: list[Tensor] | None = None) -> Posterior:
        """``[n, 3, H, W]`` in [-1, 1] to the posterior of its unscaled latents; ``features`` as in the encoder."""
        mean, logvar = self.quant_conv(self.encoder(pictures, features)).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def latents(self, x: Tensor, noise: Tensor) -> Tensor:
        """Scaled latents ``[n, 4, h, w]`` as a posterior sample: the networks were trained on samples, not modes."""
        return self.config.scale_factor * self.encode(x).sample(noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents ``[n, 4, h, w]`` to images ``[n, 3, 8 h, 8 w]`` around [-1, 1], unclamped."""
        return self.decoder(self.post_quant_conv(latents / self.config.scale_factor), tiles=self.tiles)

    def in_float32(self, device: torch.device) -> Autoencoder:
        """A copy on ``device`` that computes in float32, with PyTorch's layers."""
        wide = type(self)(self.config, Operations(dtype=torch.float32, device="meta"))
        tensors = {name: tensor.to(device, torch.float32) for name, tensor in self.state_dict().items()}
        wide.requires_grad_(False).load_state_dict(tensors, assign=True)
        wide.tiles = self.tiles
        return wide.train(False)

    def frames(self, latents: Tensor, pictures: Tensor | None = None) -> Iterator[Tensor]:
        """Frames of a clip one by one, as :class:`~.protocols.FrameDecoder`; ``pictures`` are ignored."""
        for index in range(latents.shape[0]):
            yield self.decode(latents[index : index + 1])
