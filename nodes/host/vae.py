"""The autoencoder as the host's VAE, and decoding in chunks that fit into memory."""

from __future__ import annotations

from typing import Any

import comfy.ldm.models.autoencoder
import comfy.ldm.modules.diffusionmodules.model
import comfy.model_management
import comfy.ops
import comfy.sd
import torch
from torch import Tensor

from ...dynamicrafter.diffusion.finite import overflows
from ...dynamicrafter.model.autoencoder import Autoencoder
from ...dynamicrafter.model.configs import VaeConfig
from ...dynamicrafter.model.operations import Operations
from ...dynamicrafter.model.protocols import Posterior
from ...dynamicrafter.model.tiles import TILES
from ...dynamicrafter.model.video_decoder import VideoAutoencoder
from .memory import make_room, out_of_memory, vae_decode_bytes, vae_encode_bytes, with_room
from .model import HostAttention, load_weights, make_patcher
from .run import PartOfProgress, Progress, check_latent, intermediate, is_out_of_memory

_STAND_IN = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 8,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
"""A tiny architecture with which the host's VAE object is created before our module replaces it."""


class HostAutoencoder(Autoencoder):
    """Our autoencoder with the two methods the host's VAE calls, on unscaled latents."""

    def encode(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Images ``[n, 3, H, W]`` in [-1, 1] to the most likely unscaled latents ``[n, 4, h, w]``."""
        return self.posterior(x).mean

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents ``[n, 4, h, w]`` to images ``[n, 3, H, W]`` around [-1, 1]."""
        return super().decode(latents * self.config.scale_factor)

    def posterior(self, x: Tensor) -> Posterior:
        """The distribution of an image's latents."""
        return super().encode(x)


class HostVideoAutoencoder(VideoAutoencoder):
    """ToonCrafter's autoencoder; one image at a time for the host's nodes, whole clips for ours."""

    decodes_whole_clips = True

    def encode(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Images ``[n, 3, H, W]`` in [-1, 1] to the most likely unscaled latents ``[n, 4, h, w]``."""
        return self.posterior(x).mean

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents of the frames of one clip to its frames, without the key images."""
        return self.decode_clip(latents * self.config.scale_factor, latents.shape[0], None)

    def posterior(self, x: Tensor, features: list[Tensor] | None = None) -> Posterior:
        """The distribution of an image's latents."""
        return Autoencoder.encode(self, x, features)

    def references(self, first: Tensor, last: Tensor) -> list[Tensor]:
        """Encoder features of both key images, ``[1, c, 2, h, w]`` for each level."""
        features: list[Tensor] = []
        self.posterior(torch.cat([first, last]), features)
        return [f.movedim(0, 1).unsqueeze(0) for f in features]


class _PictureAttention(HostAttention):
    """The host's attention; over a whole image, the implementation that the host uses in its own autoencoders."""

    def __init__(self) -> None:
        super().__init__()
        self.over_pictures = comfy.ldm.modules.diffusionmodules.model.vae_attention()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """``[b, n, heads * d]`` in and out."""
        if heads > 1:
            return super().__call__(q, k, v, heads)
        # The host's takes channels x height x width.
        out = self.over_pictures(*(x.transpose(1, 2).unsqueeze(-1) for x in (q, k, v)))
        return out.squeeze(-1).transpose(1, 2)


def build_vae(config: VaeConfig, weights: dict[str, Tensor], disable_dynamic: bool = False) -> Any:
    """The host's VAE with our autoencoder, built from the host's layers."""
    kind = HostVideoAutoencoder if config.video_decoder else HostAutoencoder
    params = {"ddconfig": dict(_STAND_IN), "embed_dim": 4}
    stand_in = comfy.ldm.models.autoencoder.AutoencoderKL(**params)
    vae = comfy.sd.VAE(sd=stand_in.state_dict(), config={"params": params})
    load_device, offload_device = vae.patcher.load_device, vae.patcher.offload_device
    operations = Operations(comfy.ops.manual_cast, _PictureAttention(), vae.vae_dtype, offload_device)
    module = kind(config, operations)
    vae.first_stage_model = module
    vae.patcher = make_patcher(module, load_device, offload_device, disable_dynamic)
    load_weights(module, weights, vae.patcher, vae.vae_dtype)
    vae.size = vae.patcher.model_size()
    # For one image; the host divides the free memory by it to get the number that fits.
    vae.memory_used_encode = lambda shape, dtype: vae_encode_bytes(config, shape[-2] * shape[-1], dtype)
    vae.memory_used_decode = lambda shape, dtype: vae_decode_bytes(
        config, 1, 64 * shape[-2] * shape[-1], dtype
    )
    return vae


def check_vae(vae: Any) -> None:
    """Raise ValueError for no VAE at all and for one whose latents differ from Stable Diffusion's."""
    if vae is None:
        raise ValueError(
            "there is no VAE in this checkpoint; connect a core VAELoader with an SD 1.x/2.x VAE to vae"
        )
    channels, dimensions = getattr(vae, "latent_channels", 4), getattr(vae, "latent_dim", 2)
    if channels != 4 or dimensions != 2:
        raise ValueError(
            f"this VAE has latents with {channels} channels and {dimensions} dimensions, but the model needs those of "
            f"Stable Diffusion 1 and 2 (4 channels, 2 dimensions); use the loader's VAE"
        )


_SMALLER = "use a smaller size, close other programs that use the device, or start ComfyUI with --novram"


class HostPictureEncoder:
    """A VAE of the host as the package's image encoder; posteriors are float32 on the CPU.

    A VAE that is not ours returns a single value instead of a distribution; its variance is taken as zero.
    """

    def __init__(self, vae: Any) -> None:
        self._vae = vae

    def encode(self, pictures: Tensor) -> Posterior:
        """The posterior of images ``[n, 3, H, W]`` in [-1, 1]."""
        vae, module = self._vae, self._vae.first_stage_model
        if not hasattr(module, "posterior"):
            mean = vae.encode((pictures.movedim(1, -1) + 1) / 2).float().cpu()
            return Posterior(mean, torch.full_like(mean, -torch.inf))
        needed = vae.memory_used_encode(pictures.shape, vae.vae_dtype)
        comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed)

        def encoded() -> Posterior:
            found = module.posterior(pictures.to(vae.device, vae.vae_dtype))
            return Posterior(found.mean.float().cpu(), found.logvar.float().cpu())

        what = f"encoding an image of {pictures.shape[-1]}x{pictures.shape[-2]}"
        return with_room(encoded, needed, vae.patcher, what, _SMALLER)


def decode_frames(vae: Any, latents: Tensor, pictures: Tensor | None, chunk: int) -> Tensor:
    """Frames ``[t, H, W, 3]`` in [0, 1], where the host keeps results; all else as :func:`decode_exactly`."""
    return intermediate(decode_exactly(vae, latents, pictures, chunk).clamp(0, 1))


def decode_exactly(
    vae: Any,
    latents: Tensor,
    pictures: Tensor | None,
    chunk: int = 0,
    progress: PartOfProgress | None = None,
) -> Tensor:
    """Unscaled latents ``[t, 4, h, w]`` to frames ``[t, H, W, 3]`` around [0, 1], float32 on the CPU.

    ``chunk`` frames are decoded at once (0: as many as fit). If memory runs out, the rest is decoded frame by frame
    and, if that does not fit either, in the host's tiles. ToonCrafter's decoder decodes all frames at once, if need be
    in tiles of the image; it uses the key images ``pictures`` ``[2, 3, H, W]``. If frames overflow float16, our VAEs
    decode all of them in float32. Raises RuntimeError with the memory needed and free if nothing fits, and ValueError
    for frames that are not finite, which would be black.
    """
    check_latent(latents)
    check_vae(vae)
    if not torch.isfinite(latents).all():
        raise ValueError("the latents are not finite; sample them again with another weight_dtype or cfg")
    module = vae.first_stage_model

    def decoded(dtype: torch.dtype) -> Tensor:
        if getattr(module, "decodes_whole_clips", False):
            return _decode_clip(vae, module, latents, pictures, dtype, progress)
        return _decode_in_chunks(vae, latents, chunk, dtype, progress)

    dtype: torch.dtype = vae.vae_dtype
    frames = decoded(dtype)
    if hasattr(module, "posterior") and overflows(frames, dtype):
        # Its layers cast their weights to what they are given.
        dtype = torch.float32
        frames = decoded(dtype)
    if not torch.isfinite(frames).all():
        name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"the VAE's output is not finite in {name}; start ComfyUI with --bf16-vae or --fp32-vae, or use a VAE "
            f"that is not damaged"
        )
    return frames


def _decode_in_chunks(
    vae: Any, latents: Tensor, chunk: int, dtype: torch.dtype, progress: PartOfProgress | None
) -> Tensor:
    """Frames of a decoder without temporal layers."""
    module = vae.first_stage_model

    def whole(part: Tensor) -> Tensor:
        decoded = module.decode(part.to(vae.device, dtype)).float().cpu()
        return ((decoded + 1) / 2).movedim(1, -1)

    total = latents.shape[0]
    needed = vae.memory_used_decode((1, *latents.shape[1:]), dtype)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed * max(1, chunk))
    size = chunk or max(1, min(_LARGEST_CHUNK, int(_free_bytes(vae) / max(1, needed))))
    # The host's own VAEs decode in tiles when they run out of memory; for ours this is the last resort.
    ways = [(size, vae.decode), (1, vae.decode)]
    if hasattr(module, "posterior"):
        # The host's tiles are computed in its own precision.
        ways = [(size, whole), (1, whole), *([(1, vae.decode)] if dtype == vae.vae_dtype else [])]
    bar = Progress(total) if progress is None else progress.of(total)
    frames: list[Tensor] = []
    done = 0
    while done < total:
        size, decode = ways[0]
        part = latents[done : done + size]
        try:
            frames.append(decode(part).float().cpu())
            done += part.shape[0]
            failed = False
        except Exception as problem:
            if not is_out_of_memory(problem):
                raise
            if len(ways) == 1:
                what = f"decoding one frame of {part.shape[-1] * 8}x{part.shape[-2] * 8}"
                raise out_of_memory(what, needed, vae.device, _SMALLER) from problem
            failed = True
        # Out of the handler, so that the traceback's frames do not hold the memory any more.
        if failed:
            ways = ways[1:]
            make_room(needed, vae.patcher)
        else:
            bar.update(done)
    return torch.cat(frames)


_LARGEST_CHUNK = 8
"""More at once is no faster and delays cancellation."""


def _free_bytes(vae: Any) -> float:
    """What the host could free on the VAE's device; newer hosts include what their streaming would release."""
    if hasattr(vae.patcher, "get_free_memory"):
        return vae.patcher.get_free_memory(vae.device)
    return comfy.model_management.get_free_memory(vae.device)


def _decode_clip(
    vae: Any,
    module: HostVideoAutoencoder,
    latents: Tensor,
    pictures: Tensor | None,
    dtype: torch.dtype,
    progress: PartOfProgress | None,
) -> Tensor:
    """All frames at once, because this decoder has temporal layers; in blended tiles if memory runs out."""
    frames, _, height, width = latents.shape
    needed = vae_decode_bytes(module.config, frames, 64 * height * width, dtype)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed)

    def decoded() -> Tensor:
        references = None
        if pictures is not None:
            first, last = (p[None].to(vae.device, dtype) for p in (pictures[0], pictures[-1]))
            references = module.references(first, last)
        z = latents.to(vae.device, dtype) * module.config.scale_factor
        return module.decode_clip(z, frames, references).float().cpu()

    def in_tiles() -> Tensor:
        module.tiles = TILES
        try:
            return decoded()
        finally:
            module.tiles = None

    bar = Progress(1) if progress is None else progress.of(1)
    tile = 64 * min(height, TILES.size) * min(width, TILES.size)
    least = vae_decode_bytes(module.config, frames, tile, dtype)
    what = f"decoding {frames} frames of {width * 8}x{height * 8}, even in tiles of all frames,"
    advice = "use a smaller size or fewer frames, or start ComfyUI with --fp16-vae or --cpu-vae"
    made = with_room(decoded, needed, vae.patcher, what, advice, (least, in_tiles))
    bar.update(1)
    return ((made + 1) / 2).movedim(1, -1)
