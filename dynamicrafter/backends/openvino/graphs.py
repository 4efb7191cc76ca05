"""The networks as functions of plain tensors, which is what an exported graph is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...model.autoencoder import Autoencoder
from ...model.configs import LATENT_FACTOR, TEXT_TOKENS, VaeConfig
from ...model.protocols import Context
from ...model.variants import Variant
from ...model.video_decoder import VideoAutoencoder
from ...pipeline import TorchModel
from .manifest import Graph


class _Function(nn.Module):
    """A module that owns another one and calls a function of it."""

    def __init__(self, owner: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.owner = owner
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        """Whatever the function returns."""
        return self.function(*inputs)


@dataclass(frozen=True)
class Signature:
    """Names and shapes of a graph's inputs and outputs; None is an axis of any length."""

    inputs: dict[str, tuple[int | None, ...]]
    outputs: dict[str, tuple[int | None, ...]]
    integers: tuple[str, ...] = ()
    """Inputs that are int64; all others are float32."""


def signature(variant: Variant, graph: Graph) -> Signature:
    """The inputs, in the order of the call, and the outputs of a network of ``variant``."""
    unet, vae = variant.unet, variant.vae
    latent = (None, vae.latent_channels, None, None)
    if graph == "unet":
        return Signature(
            {
                "x": (None, unet.in_channels, None, None, None),
                "time": (None, unet.model_channels),
                "text": (None, TEXT_TOKENS, unet.context_dim),
                "image": (None, None, None, unet.context_dim),
                "rate": (None, unet.model_channels),
            },
            {"out": (None, unet.out_channels, None, None, None)},
        )
    if graph == "vae_encoder":
        moments = (None, 2 * vae.latent_channels, None, None)
        return Signature({"pictures": (None, 3, None, None)}, {"moments": moments, **_references(vae, "n")})
    if graph == "vae_decoder":
        return Signature({"latents": latent, **_references(vae, "2")}, {"frames": (None, 3, None, None)})
    if graph == "resampler":
        size = variant.resampler
        queries = size.frames * size.queries_per_frame
        return Signature({"tokens": (None, None, size.input_dim)}, {"out": (None, queries, size.output_dim)})
    if graph == "text":
        return Signature(
            {"tokens": (None, TEXT_TOKENS)}, {"out": (None, TEXT_TOKENS, variant.text.width)}, ("tokens",)
        )
    side = variant.vision.image_size
    return Signature({"pixels": (None, 3, side, side)}, {"out": (None, None, variant.vision.width)})


def _references(vae: VaeConfig, count: str) -> dict[str, tuple[int | None, ...]]:
    """The encoder's features that a video decoder takes; ``count`` is unused by others."""
    if not vae.video_decoder:
        return {}
    widths = [vae.channels * factor for factor in vae.channel_mult]
    return {
        f"reference_{index}": (2 if count == "2" else None, width, None, None)
        for index, width in enumerate([*widths, vae.channels])
    }


def function_of(model: TorchModel, graph: Graph) -> nn.Module:
    """A network of ``model`` with the inputs and outputs of its :func:`signature`."""
    if graph == "unet":
        network = model.unet

        def evaluate(x: Tensor, time: Tensor, text: Tensor, image: Tensor, rate: Tensor) -> Tensor:
            return network.from_sinusoids(x, time, Context(text, image), rate)

        return _Function(network, evaluate)
    if graph == "vae_encoder":
        return _encoder(model.vae)
    if graph == "vae_decoder":
        return _decoder(model.vae)
    if graph == "resampler":
        return model.resampler
    tower = model.text if graph == "text" else model.vision
    return _Function(tower, tower.encode)


def _encoder(vae: Autoencoder) -> nn.Module:
    def moments(pictures: Tensor) -> Any:
        if not isinstance(vae, VideoAutoencoder):
            return vae.quant_conv(vae.encoder(pictures))
        features: list[Tensor] = []
        found = vae.quant_conv(vae.encoder(pictures, features))
        return (found, *features)

    return _Function(vae, moments)


def _decoder(vae: Autoencoder) -> nn.Module:
    def frames(latents: Tensor, *features: Tensor) -> Tensor:
        if not isinstance(vae, VideoAutoencoder):
            return vae.decode(latents)
        references = [feature.transpose(0, 1).unsqueeze(0) for feature in features]
        return vae.decode_clip(latents, latents.shape[0], references)

    return _Function(vae, frames)


def example(variant: Variant, graph: Graph) -> tuple[Tensor, ...]:
    """Small inputs to trace a network with; the graph accepts all other sizes too.

    All free axes have different lengths, so that none is mistaken for another; but one group of image tokens serves all
    frames, because that is the case that expands.
    """
    cells = 2 ** (len(variant.unet.channel_mult) - 1)
    free = {
        "unet": {"x": (1, 3, 2 * cells, 3 * cells), "text": (1,), "image": (1, 1, 5)},
        "vae_encoder": {"pictures": (1, 2 * LATENT_FACTOR, 3 * LATENT_FACTOR)},
        "vae_decoder": {"latents": (1, 2, 3)},
        "resampler": {"tokens": (2, 5)},
        "text": {"tokens": (2,)},
        "vision": {"pixels": (2,)},
    }[graph]
    found = signature(variant, graph)
    inputs: list[Tensor] = []
    for name, shape in found.inputs.items():
        lengths = iter(free.get(name, (1,) * len(shape)))
        size = [next(lengths) if length is None else length for length in shape]
        if graph == "vae_decoder" and variant.vae.video_decoder:
            size = _video_size(variant.vae, name, size)
        if name in found.integers:
            inputs.append(torch.ones(size, dtype=torch.int64))
        else:
            inputs.append(torch.linspace(-1, 1, torch.Size(size).numel()).reshape(size))
    return tuple(inputs)


def _video_size(vae: VaeConfig, name: str, size: list[int]) -> list[int]:
    """Sizes that go together: a clip of 3 frames, and each level's features of the same images."""
    if name == "latents":
        return [3, size[1], 2, 3]
    index = int(name.removeprefix("reference_"))
    scale = LATENT_FACTOR >> min(index % len(vae.channel_mult), len(vae.channel_mult) - 1)
    return [2, size[1], 2 * scale, 3 * scale]
