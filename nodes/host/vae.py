"""The autoencoder as the host's VAE, and frames in pieces that fit the memory."""

from __future__ import annotations

from typing import Any

import comfy.ldm.models.autoencoder
import comfy.ldm.modules.diffusionmodules.model
import comfy.model_management
import comfy.ops
import comfy.sd
import torch
from torch import Tensor

from ...dynamicrafter.model.autoencoder import Autoencoder
from ...dynamicrafter.model.configs import VaeConfig
from ...dynamicrafter.model.operations import Operations
from ...dynamicrafter.model.protocols import Posterior
from ...dynamicrafter.model.video_decoder import VideoAutoencoder
from .memory import make_room, out_of_memory, vae_decode_bytes, vae_encode_bytes, with_room
from .model import HostAttention, load_weights, make_patcher
from .run import Progress, check_latent, is_out_of_memory

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
"""A few weights the host's VAE object is made around before ours take their place."""


class HostAutoencoder(Autoencoder):
    """Our autoencoder with the two methods the host's VAE calls, on unscaled latents."""

    def encode(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Pictures ``[n, 3, H, W]`` in [-1, 1] to the most likely unscaled latents ``[n, 4, h, w]``."""
        return self.posterior(x).mean

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents ``[n, 4, h, w]`` to pictures ``[n, 3, H, W]`` around [-1, 1]."""
        return super().decode(latents * self.config.scale_factor)

    def posterior(self, x: Tensor) -> Posterior:
        """The distribution of a picture's latents."""
        return super().encode(x)


class HostVideoAutoencoder(VideoAutoencoder):
    """ToonCrafter's autoencoder; one picture at a time for the host's nodes, whole clips for ours."""

    decodes_whole_clips = True

    def encode(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Pictures ``[n, 3, H, W]`` in [-1, 1] to the most likely unscaled latents ``[n, 4, h, w]``."""
        return self.posterior(x).mean

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents of the frames of one clip to its frames, without looking at pictures."""
        return self.decode_clip(latents * self.config.scale_factor, latents.shape[0], None)

    def posterior(self, x: Tensor, features: list[Tensor] | None = None) -> Posterior:
        """The distribution of a picture's latents."""
        return Autoencoder.encode(self, x, features)

    def references(self, first: Tensor, last: Tensor) -> list[Tensor]:
        """Encoder features of both key pictures, ``[1, c, 2, h, w]`` for each level."""
        features: list[Tensor] = []
        self.posterior(torch.cat([first, last]), features)
        return [f.movedim(0, 1).unsqueeze(0) for f in features]


class _PictureAttention(HostAttention):
    """The host's attention; for the one over a whole picture, what the host trusts its own autoencoders with."""

    def __init__(self) -> None:
        super().__init__()
        self.over_pictures = comfy.ldm.modules.diffusionmodules.model.vae_attention()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """``[b, n, heads * d]`` in and out."""
        if heads > 1:
            return super().__call__(q, k, v, heads)
        # The host's is over channels x height x width.
        out = self.over_pictures(*(x.transpose(1, 2).unsqueeze(-1) for x in (q, k, v)))
        return out.squeeze(-1).transpose(1, 2)


def build_vae(config: VaeConfig, weights: dict[str, Tensor], disable_dynamic: bool = False) -> Any:
    """The host's VAE around our autoencoder, built from the host's layers."""
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
    # For one picture; the host divides what is free by it to see how many fit.
    vae.memory_used_encode = lambda shape, dtype: vae_encode_bytes(config, shape[-2] * shape[-1], dtype)
    vae.memory_used_decode = lambda shape, dtype: vae_decode_bytes(
        config, 1, 64 * shape[-2] * shape[-1], dtype
    )
    return vae


def check_vae(vae: Any) -> None:
    """Raise ValueError for no VAE at all and for one whose latents are not Stable Diffusion's."""
    if vae is None:
        raise ValueError(
            "there is no VAE in this checkpoint; connect a core VAELoader with an SD 1.x/2.x VAE to vae"
        )
    channels, dimensions = getattr(vae, "latent_channels", 4), getattr(vae, "latent_dim", 2)
    if channels != 4 or dimensions != 2:
        raise ValueError(
            f"this VAE makes latents of {channels} channels and {dimensions} dimensions, but the model wants those of "
            f"Stable Diffusion 1 and 2 (4 channels, 2 dimensions); use the loader's VAE"
        )


_SMALLER = "choose a smaller size, close other programs that use the device, or start ComfyUI with --novram"


class HostPictureEncoder:
    """A VAE of the host as the package's encoder of pictures; posteriors are float32 on the CPU.

    Of a VAE that is not ours there is one answer and no distribution; it is taken as certain.
    """

    def __init__(self, vae: Any) -> None:
        self._vae = vae

    def encode(self, pictures: Tensor) -> Posterior:
        """The posterior of pictures ``[n, 3, H, W]`` in [-1, 1]."""
        vae, module = self._vae, self._vae.first_stage_model
        if not hasattr(module, "posterior"):
            mean = vae.encode((pictures.movedim(1, -1) + 1) / 2).float().cpu()
            return Posterior(mean, torch.full_like(mean, -torch.inf))
        needed = vae.memory_used_encode(pictures.shape, vae.vae_dtype)
        comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed)

        def encoded() -> Posterior:
            found = module.posterior(pictures.to(vae.device, vae.vae_dtype))
            return Posterior(found.mean.float().cpu(), found.logvar.float().cpu())

        what = f"encoding a picture of {pictures.shape[-1]}x{pictures.shape[-2]}"
        return with_room(encoded, needed, vae.patcher, what, _SMALLER)


def decode_frames(vae: Any, latents: Tensor, pictures: Tensor | None, chunk: int) -> Tensor:
    """Unscaled latents ``[t, 4, h, w]`` to frames ``[t, H, W, 3]`` in [0, 1] on the CPU, float32.

    ``chunk`` frames are decoded at once (0: as many as fit). Out of memory, the rest goes frame by frame and, when
    that does not fit either, in the host's tiles. ``pictures`` ``[2, 3, H, W]`` are what ToonCrafter's decoder looks
    at. Raises RuntimeError with what was needed and what was there when nothing fits.
    """
    check_latent(latents)
    check_vae(vae)
    module = vae.first_stage_model
    if getattr(module, "decodes_whole_clips", False):
        return _decode_clip(vae, module, latents, pictures)

    def whole(part: Tensor) -> Tensor:
        decoded = module.decode(part.to(vae.device, vae.vae_dtype)).float().cpu()
        return ((decoded + 1) / 2).movedim(1, -1)

    total = latents.shape[0]
    needed = vae.memory_used_decode((1, *latents.shape[1:]), vae.vae_dtype)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed * max(1, chunk))
    size = chunk or max(1, min(_LARGEST_CHUNK, int(_free_bytes(vae) / max(1, needed))))
    # The host's own VAEs, and the last resort for ours, decode in tiles when they run out of memory.
    ways = [(size, vae.decode), (1, vae.decode)]
    if hasattr(module, "posterior"):
        ways = [(size, whole), (1, whole), (1, vae.decode)]
    progress = Progress(total)
    frames: list[Tensor] = []
    done = 0
    while done < total:
        size, decode = ways[0]
        part = latents[done : done + size]
        try:
            frames.append(decode(part).float().cpu().clamp(0, 1))
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
            progress.update(done)
    return torch.cat(frames)


_LARGEST_CHUNK = 8
"""More at once is no faster and delays a cancel."""


def _free_bytes(vae: Any) -> float:
    """What the host could have free on the VAE's device; newer hosts count what their streaming would give up."""
    if hasattr(vae.patcher, "get_free_memory"):
        return vae.patcher.get_free_memory(vae.device)
    return comfy.model_management.get_free_memory(vae.device)


def _decode_clip(vae: Any, module: HostVideoAutoencoder, latents: Tensor, pictures: Tensor | None) -> Tensor:
    """All frames at once: this decoder looks along time."""
    frames, _, height, width = latents.shape
    needed = vae_decode_bytes(module.config, frames, 64 * height * width, vae.vae_dtype)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed)

    def decoded() -> Tensor:
        references = None
        if pictures is not None:
            first, last = (p[None].to(vae.device, vae.vae_dtype) for p in (pictures[0], pictures[-1]))
            references = module.references(first, last)
        z = latents.to(vae.device, vae.vae_dtype) * module.config.scale_factor
        return module.decode_clip(z, frames, references).float().cpu()

    progress = Progress(1)
    what = f"decoding {frames} frames of {width * 8}x{height * 8} at once, as this decoder wants,"
    advice = "choose a smaller size, fewer frames, or start ComfyUI with --fp16-vae or --cpu-vae"
    made = with_room(decoded, needed, vae.patcher, what, advice)
    progress.update(1)
    return ((made + 1) / 2).clamp(0, 1).movedim(1, -1)
