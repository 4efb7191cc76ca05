"""A small random checkpoint as tensors, and rewritten in the ways in which checkpoints are found in the wild."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dynamicrafter.model.protocols import Context
from dynamicrafter.weights.fill import single_thread
from dynamicrafter.weights.load import Components
from dynamicrafter.weights.networks import COMPONENTS, Component
from dynamicrafter.weights.random_model import write_random_checkpoint

PREFIXES: dict[Component, str] = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "resampler": "image_proj_model.",
    "text": "cond_stage_model.model.",
    "vision": "embedder.model.visual.",
}


@cache
def _small() -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        write_random_checkpoint(path)
        return {name: tensor.clone() for name, tensor in load_file(path).items()}


def small(*components: Component, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensors of the SMALL variant in the released naming; of all networks unless some are named."""
    prefixes = tuple(PREFIXES[component] for component in components or COMPONENTS)
    return {name: tensor.to(dtype) for name, tensor in _small().items() if name.startswith(prefixes)}


def save(path: Path, tensors: dict[str, Tensor]) -> Path:
    """Write without our metadata, as others would."""
    save_file(tensors, path)
    return path


def bare(component: Component) -> dict[str, Tensor]:
    """One network's tensors without prefix."""
    return {name.removeprefix(PREFIXES[component]): tensor for name, tensor in small(component).items()}


def open_clip_model() -> dict[str, Tensor]:
    """Both towers as open_clip saves them, with what we never use."""
    width = bare("text")["ln_final.weight"].numel()
    return {
        **bare("text"),
        **{f"visual.{name}": tensor for name, tensor in bare("vision").items()},
        "text_projection": torch.zeros(width, width),
        "logit_scale": torch.zeros(()),
        "visual.proj": torch.zeros(width, width),
        "visual.ln_post.weight": torch.zeros(width),
        "visual.ln_post.bias": torch.zeros(width),
        # The last trained block, which is never run.
        "transformer.resblocks.2.ln_1.weight": torch.zeros(width),
    }


_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_REST = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "positional_embedding": "embeddings.position_embedding.weight",
}


def hugging_face(component: Component) -> dict[str, Tensor]:
    """A tower as transformers saves it: query, key and value apart."""
    named: dict[str, Tensor] = {}
    for name, tensor in bare(component).items():
        if name in _REST:
            named[f"{component}_model.{_REST[name]}"] = tensor
            continue
        number, _, rest = name.removeprefix("transformer.resblocks.").partition(".")
        stem = f"{component}_model.encoder.layers.{number}"
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                named[f"{stem}.self_attn.{letter}_proj.{kind}"] = part.clone()
        else:
            layer, _, kind = rest.rpartition(".")
            named[f"{stem}.{_LAYER[layer]}.{kind}"] = tensor
    return named


@torch.inference_mode()
def features(loaded: Components) -> tuple[Tensor, Tensor]:
    """What the CLIP towers make of a fixed prompt and picture."""
    assert loaded.text is not None and loaded.vision is not None
    with single_thread():
        return loaded.text(["a boat at sea"]), loaded.vision.encode(_noise(loaded, 1, 3, 224, 224))


@torch.inference_mode()
def outputs(loaded: Components) -> list[Tensor]:
    """What every network of a loaded checkpoint makes of fixed inputs."""
    text, image = features(loaded)
    with single_thread():
        tokens = loaded.resampler(image)
        context = Context(text, tokens[:, None])
        x, z = _noise(loaded, 1, 8, 2, 8, 8), _noise(loaded, 1, 4, 4, 4)
        velocity = loaded.unet(x, torch.tensor([500]), context, torch.tensor([8]))
        latents = loaded.vae.latents(_noise(loaded, 1, 3, 32, 32), z)
        return [text, image, tokens, velocity, loaded.vae.decode(z), latents]


def _noise(loaded: Components, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(loaded.dtype)
