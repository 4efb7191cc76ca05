"""A small model with random weights, as the original's files and as objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dynamicrafter.animate_anyone.config import (
    PERSON_KEY,
    EmbedderConfig,
    PairConfig,
    PersonConfig,
    PoseGuiderConfig,
)
from dynamicrafter.animate_anyone.layout import PARTS, Part
from dynamicrafter.animate_anyone.pipeline import TorchPersonModel
from dynamicrafter.animate_anyone.weights import PERSON_PREFIXES, build_person_network
from dynamicrafter.forms import to_json
from dynamicrafter.model.configs import VaeConfig
from dynamicrafter.model.operations import PLAIN

SMALL = PersonConfig(
    pair=PairConfig(widths=(32, 32), blocks=1, heads=4, context_dim=16, norm_groups=8),
    pose_guider=PoseGuiderConfig(widths=(4, 8, 8, 8), out_channels=32),
    embedder=EmbedderConfig(width=16, layers=1, heads=2, inner=32, patch=56, out_dim=16),
    vae=VaeConfig(channels=8, channel_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4),
)
"""Two levels, so that latents of odd sizes occur."""


def small_person() -> TorchPersonModel:
    torch.manual_seed(1)
    networks: dict[Part, Any] = {
        part: build_person_network(SMALL, part, PLAIN).train(False) for part in PARTS
    }
    for network in networks.values():
        network.requires_grad_(False)
    return TorchPersonModel(config=SMALL, device=torch.device("cpu"), dtype=torch.float32, **networks)


def our_names(model: TorchPersonModel) -> dict[str, Tensor]:
    """Every tensor of a model by network and name."""
    return {
        f"{part}.{name}": values
        for part in PARTS
        for name, values in getattr(model, part).state_dict().items()
    }


def released_names(model: TorchPersonModel) -> dict[Part, dict[str, Tensor]]:
    """Every tensor under its name in the original's files; the autoencoder keeps ours, which are read too."""
    found: dict[Part, dict[str, Tensor]] = {}
    for part in PARTS:
        state = {
            name.replace(".downsamplers.0.op.", ".downsamplers.0.conv."): values
            for name, values in getattr(model, part).state_dict().items()
        }
        found[part] = embedder_names(state) if part == "embedder" else dict(state)
    return found


def embedder_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a vision transformer with Hugging Face's names, which keeps query, key and value apart."""
    names = {
        "class_embedding": "vision_model.embeddings.class_embedding",
        "positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual_projection.weight": "visual_projection.weight",
    }
    layers = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    found: dict[str, Tensor] = {}
    for name, values in state.items():
        stem, _, leaf = name.rpartition(".")
        if name in names:
            found[names[name]] = values
        elif stem in ("ln_pre", "ln_post"):
            found[f"vision_model.{'pre_layrnorm' if stem == 'ln_pre' else 'post_layernorm'}.{leaf}"] = values
        else:
            index, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
            layer = f"vision_model.encoder.layers.{index}"
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for which, part in zip("qkv", values.chunk(3), strict=True):
                    found[f"{layer}.self_attn.{which}_proj.{kind}"] = part.clone()
            else:
                inner, _, kind = rest.rpartition(".")
                found[f"{layer}.{layers[inner]}.{kind}"] = values
    return found


def write_person(path: Path, model: TorchPersonModel, **changes: Tensor | None) -> Path:
    """One file with all networks; ``changes`` replace tensors by their names in it, or leave them out."""
    import json

    tensors = {
        PERSON_PREFIXES[part] + name: values
        for part, named in released_names(model).items()
        for name, values in named.items()
    }
    for name, values in changes.items():
        if values is None:
            del tensors[name]
        else:
            tensors[name] = values
    contiguous = {name: values.contiguous() for name, values in tensors.items()}
    save_file(contiguous, path, {PERSON_KEY: json.dumps(to_json(model.config))})
    return path
