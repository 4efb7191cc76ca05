"""The CLIP encoders of a checkpoint as the host's CLIP and CLIP_VISION, and images in the form they need."""

from __future__ import annotations

import functools
import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.sd2_clip
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ...dynamicrafter.animate_anyone.config import EmbedderConfig
from ...dynamicrafter.model.configs import TEXT_TOKENS, TextConfig, VisionConfig
from ...dynamicrafter.model.encoders import clip_pixels
from ...dynamicrafter.model.variants import Variant
from .model import make_patcher

_SPECIAL = {"start": 49406, "end": 49407, "pad": 0}


class _TextModel(comfy.sd1_clip.SDClipModel):
    """The host's CLIP text model with only the blocks that run, so that its last hidden state is the one needed."""

    def __init__(
        self, config: dict[str, Any], device: Any = "cpu", dtype: Any = None, model_options: Any = None
    ):
        super().__init__(
            device=device,
            dtype=dtype,
            layer="last",
            textmodel_json_config=dict(config),
            special_tokens=dict(_SPECIAL),
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class _Target:
    """The target from which the host builds a CLIP: a model class, a tokenizer class and their parameters."""

    def __init__(self, config: TextConfig) -> None:
        values = {
            "num_hidden_layers": config.layers,
            "hidden_size": config.width,
            "num_attention_heads": config.heads,
            "intermediate_size": 4 * config.width,
            "hidden_act": "gelu",
            "max_position_embeddings": TEXT_TOKENS,
            "vocab_size": config.vocabulary,
            "eos_token_id": _SPECIAL["end"],
        }
        self.params: dict[str, Any] = {}
        model = functools.partial(_TextModel, values)
        self.clip = functools.partial(comfy.sd1_clip.SD1ClipModel, clip_name="h", clip_model=model)
        self.tokenizer = comfy.text_encoders.sd2_clip.SD2Tokenizer


def build_clip(config: TextConfig, weights: dict[str, Tensor], disable_dynamic: bool = False) -> Any:
    """The host's CLIP for a text encoder in open_clip's naming (without prefix)."""
    converted = comfy.utils.clip_text_transformers_convert(dict(weights), "", "")
    # Pooled text is not part of this model; the host computes it anyway and needs a projection.
    converted["text_projection.weight"] = torch.eye(config.width, dtype=weights["ln_final.weight"].dtype)
    parameters = sum(tensor.numel() for tensor in converted.values())
    choices: dict[str, Any] = {
        "embedding_directory": folder_paths.get_folder_paths("embeddings"),
        "parameters": parameters,
    }
    known = inspect.signature(comfy.sd.CLIP.__init__).parameters
    if "disable_dynamic" in known:
        choices["disable_dynamic"] = disable_dynamic
    if "state_dict" in known:
        return comfy.sd.CLIP(_Target(config), state_dict=[converted], **choices)
    clip = comfy.sd.CLIP(_Target(config), **choices)
    clip.load_sd(converted)
    return clip


def build_clip_vision(config: VisionConfig, weights: dict[str, Tensor], disable_dynamic: bool = False) -> Any:
    """The host's CLIP_VISION for an image encoder in open_clip's naming (without prefix)."""
    converted = comfy.clip_vision.convert_to_transformers(dict(weights), "")
    dtype = weights["ln_pre.weight"].dtype
    # The layers after the last block are not part of this model; the host computes them anyway.
    converted["vision_model.post_layernorm.weight"] = torch.ones(config.width, dtype=dtype)
    converted["vision_model.post_layernorm.bias"] = torch.zeros(config.width, dtype=dtype)
    converted["visual_projection.weight"] = torch.eye(config.width, dtype=dtype)
    values = {
        "model_type": "clip_vision_model",
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        "hidden_act": "gelu",
        "image_size": config.image_size,
        "patch_size": config.patch,
        "num_channels": 3,
        "projection_dim": config.width,
        "layer_norm_eps": 1e-5,
    }
    return _clip_vision(values, converted, disable_dynamic)


def build_embedder(config: EmbedderConfig, weights: dict[str, Tensor], disable_dynamic: bool = False) -> Any:
    """The host's CLIP_VISION for AnimateAnyone's image encoder, in the names of its network here."""
    projection = {"visual_projection.weight": weights["visual_projection.weight"]}
    tower = {name: tensor for name, tensor in weights.items() if name not in projection}
    values = {
        "model_type": "clip_vision_model",
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": config.inner,
        "hidden_act": "quick_gelu",
        "image_size": config.image_size,
        "patch_size": config.patch,
        "num_channels": 3,
        "projection_dim": config.out_dim,
        "layer_norm_eps": 1e-5,
    }
    converted = comfy.clip_vision.convert_to_transformers(tower, "") | projection
    return _clip_vision(values, converted, disable_dynamic)


def _clip_vision(values: dict[str, Any], weights: dict[str, Tensor], disable_dynamic: bool) -> Any:
    """The host's CLIP_VISION of these sizes, with weights in its own names."""
    with tempfile.TemporaryDirectory() as folder:
        # Older hosts accept only a file name.
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        vision = comfy.clip_vision.ClipVisionModel(str(path))
    if disable_dynamic:
        vision.patcher = make_patcher(
            vision.model, vision.load_device, vision.patcher.offload_device, disable_dynamic
        )
    missing, unexpected = vision.load_sd(weights)
    wrong = [name for name in (*missing, *unexpected) if not name.endswith("position_ids")]
    if wrong:
        raise ValueError(
            f"the image encoder does not match this ComfyUI's ({', '.join(wrong[:3])}); update ComfyUI and the pack"
        )
    return vision


def check_text(conditioning: Any, variant: Variant, name: str) -> None:
    """Raise ValueError if a conditioning is empty or comes from a text encoder of another width."""
    if not conditioning:
        raise ValueError(f"{name} is empty; connect a CLIP Text Encode, or disconnect it and enter a prompt")
    width, wanted = conditioning[0][0].shape[-1], variant.unet.context_dim
    if width != wanted:
        raise ValueError(
            f"{name} comes from a text encoder of width {width}, but this model needs width {wanted}; use the "
            f"loader's CLIP or, for a pruned checkpoint, the SD 2.1 text encoder (CLIP ViT-H)"
        )


NO_VISION = (
    "there is no image encoder in this checkpoint; connect a core CLIPVisionLoader with CLIP-ViT-H-14-laion2B "
    "to clip_vision, or put open_clip_model.safetensors into models/text_encoders"
)
"""The error for a pruned checkpoint without an encoder of its own."""


def check_vision(clip_vision: Any, variant: Variant) -> None:
    """Raise ValueError for no image encoder at all and for one that is not the CLIP encoder this model needs."""
    if clip_vision is None:
        raise ValueError(NO_VISION)
    # Other kinds (SigLIP, DINO) have no such tensor.
    tower = getattr(clip_vision.model, "vision_model", None)
    embedding = getattr(getattr(tower, "embeddings", None), "class_embedding", None)
    width = None if embedding is None else embedding.shape[-1]
    if width != variant.vision.width:
        came = "another kind of model" if width is None else f"an encoder of width {width}"
        raise ValueError(
            f"clip_vision is {came}, but this model needs a CLIP encoder of width {variant.vision.width}; use the "
            f"loader's CLIP_VISION or, for a pruned checkpoint, CLIP-ViT-H-14-laion2B"
        )


class HostImageEncoder:
    """A CLIP_VISION that :func:`check_vision` accepts, as the package's image encoder; tokens are float32."""

    def __init__(self, clip_vision: Any, variant: Variant) -> None:
        self._clip_vision = clip_vision
        self._size = variant.vision.image_size

    def __call__(self, pictures: Tensor) -> Tensor:
        """Tokens ``[b, n, width]`` of images ``[b, 3, h, w]`` in [-1, 1]."""
        comfy.model_management.load_models_gpu([self._clip_vision.patcher])
        pixels = clip_pixels(pictures.to(self._clip_vision.load_device), self._size)
        tokens = self._clip_vision.model(pixel_values=pixels, intermediate_output=-2)[0]
        return tokens.to(comfy.model_management.intermediate_device()).float()


def encode_prompt(clip: Any, prompt: str) -> Any:
    """Core conditioning of a prompt, the same as core CLIP Text Encode outputs."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
