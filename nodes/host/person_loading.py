"""AnimateAnyone's networks as the host's MODEL and VAE; what only conditioning needs is attached to the MODEL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn

from ...dynamicrafter.animate_anyone.attention import Features
from ...dynamicrafter.animate_anyone.config import PersonConfig
from ...dynamicrafter.animate_anyone.embedder import embedder_pixels
from ...dynamicrafter.animate_anyone.layout import Part
from ...dynamicrafter.animate_anyone.unet import ReferenceUNet
from ...dynamicrafter.animate_anyone.weights import load_person_networks
from ...dynamicrafter.model.configs import QUANTISED, Quantised
from ...dynamicrafter.model.operations import Operations
from ...dynamicrafter.model.quantised import is_quantised
from ...dynamicrafter.weights.tensors import ComponentTensors
from .loading import AUTO
from .memory import pair_activation_bytes, with_room
from .model import HostAttention, build_native, choose_dtypes, load_weights, make_patcher
from .person_model import HostPersonConfig, HostPersonModel
from .quantised import HostQuantisedLayers, place_weights
from .towers import build_embedder
from .vae import build_vae

_ATTACHMENT = "dynamicrafter_person_parts"


@dataclass(frozen=True)
class _Conditioners:
    """The networks that see the reference image, each the host's object."""

    embedder: Any
    """CLIP_VISION."""
    reference: Any
    """Patcher of the reference network."""
    dtype: torch.dtype
    """In which the reference network computes."""


def load_person_parts(path: Path, weight_dtype: str) -> tuple[Any, Any]:
    """MODEL and VAE of a file or folder, one network after the other, so that two copies are never in memory.

    Raises CheckpointError as :func:`~dynamicrafter.animate_anyone.weights.load_person`.
    """
    return load_person_part("model", path, weight_dtype), load_person_part("vae", path, weight_dtype)


def load_person_part(part: str, path: Path, weight_dtype: str, disable_dynamic: bool = False) -> Any:
    """The MODEL ("model") or the VAE ("vae"), with the function by which the host can create its patcher again."""
    if part == "vae":
        config, weights = _read(path, "vae", AUTO)
        made = build_vae(config.vae, weights.tensors, disable_dynamic)
        made.patcher.cached_patcher_init = (_load_patcher, (part, path, weight_dtype))
        return made
    config, weights = _read(path, "denoising", weight_dtype, "pose_guider")
    made = build_native(HostPersonConfig(config), HostPersonModel, weights, weight_dtype, disable_dynamic)
    _attach(made, path, config, weight_dtype, disable_dynamic)
    made.cached_patcher_init = (_load_patcher, (part, path, weight_dtype))
    return made


def _load_patcher(part: str, path: Path, weight_dtype: str, disable_dynamic: bool = False) -> Any:
    made = load_person_part(part, path, weight_dtype, disable_dynamic)
    return made if part == "model" else made.patcher


def _read(path: Path, part: Part, weight_dtype: str, inner: Part | None = None) -> tuple[PersonConfig, Any]:
    """The tensors of a network, quantised if ``weight_dtype`` says so; those of ``inner`` under its name."""
    wanted: list[Part] = [part] if inner is None else [part, inner]
    config, networks = load_person_networks(path, wanted)
    tensors: dict[str, Tensor] = {}
    layers: set[str] = set()
    for name, network in networks.items():
        prefix = "" if name == part else f"{name}."
        tensors |= {prefix + key: tensor for key, tensor in network.state_dict().items()}
        for key, layer in network.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and is_quantised(tuple(layer.weight.shape)):
                layers.add(f"{prefix}{key}.weight")
    dtype = next(iter(networks[part].parameters())).dtype
    found = ComponentTensors(
        {name: tensor.to(dtype) for name, tensor in tensors.items()}, dtype, None, frozenset(layers)
    )
    return config, found.kept(cast(Quantised, weight_dtype)) if weight_dtype in QUANTISED else found


def _attach(model: Any, path: Path, config: PersonConfig, weight_dtype: str, disable_dynamic: bool) -> None:
    """Attach the image encoder and the reference network to a MODEL, each loaded without the others."""
    management = comfy.model_management
    device, offload = management.get_torch_device(), management.unet_offload_device()
    _, stored = _read(path, "reference", weight_dtype)
    chosen, manual_cast = choose_dtypes(stored, weight_dtype, HostPersonConfig.supported_inference_dtypes)
    quantised = stored.quantised is not None
    layers = HostQuantisedLayers if quantised else comfy.ops.manual_cast
    module = ReferenceUNet(config.pair, Operations(cast(Any, layers), HostAttention(), chosen, offload))
    patcher = make_patcher(module, device, offload, disable_dynamic or quantised)
    if quantised:
        place_weights(module, stored.tensors, chosen)
    else:
        load_weights(module, stored.tensors, patcher, chosen)
    compute = manual_cast or chosen
    patcher.set_model_compute_dtype(compute) if hasattr(patcher, "set_model_compute_dtype") else None
    _, tower = _read(path, "embedder", AUTO)
    embedder = build_embedder(config.embedder, tower.tensors, disable_dynamic)
    model.set_attachments(_ATTACHMENT, _Conditioners(embedder, patcher, compute))


def embed_reference(model: Any, picture: Any) -> Tensor:
    """The context ``[1, 1, d]`` of a Pillow image by the image encoder of a MODEL, float32 where results are kept."""
    embedder = model.get_attachment(_ATTACHMENT).embedder
    comfy.model_management.load_models_gpu([embedder.patcher])
    pixels = embedder_pixels(picture, embedder.config["image_size"]).to(embedder.load_device)
    context = embedder.model(pixel_values=pixels, intermediate_output=-2)[2]
    return context[:, None].to(comfy.model_management.intermediate_device()).float()


def see_reference(model: Any, latents: Tensor, context: Tensor) -> Features:
    """What the reference network of a MODEL sees in latents ``[1, 4, h, w]``, where results are kept."""
    parts = model.get_attachment(_ATTACHMENT)
    patcher, dtype = parts.reference, parts.dtype
    needed = pair_activation_bytes(
        patcher.model.config, latents.shape[-2] * latents.shape[-1], dtype, reference=True
    )
    comfy.model_management.load_models_gpu([patcher], memory_required=needed)

    def seen() -> Features:
        device = patcher.load_device
        found = patcher.model(latents.to(device, dtype), context.to(device, dtype))
        return {
            path: tokens.to(comfy.model_management.intermediate_device()) for path, tokens in found.items()
        }

    what = f"the reference of {latents.shape[-1] * 8}x{latents.shape[-2] * 8}"
    return with_room(seen, needed, patcher, what, "use a smaller size, or start ComfyUI with --novram")
