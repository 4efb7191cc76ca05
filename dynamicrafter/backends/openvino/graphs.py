"""The networks as functions of plain tensors, which is what an exported graph is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


class Function(nn.Module):
    """A module that owns another one and calls a function of it, which is what is traced."""

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
    unet = variant.unet
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
        return encoder_signature(variant.vae)
    if graph == "vae_decoder":
        return decoder_signature(variant.vae)
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


def encoder_signature(vae: VaeConfig) -> Signature:
    """Of an autoencoder's encoder."""
    moments = (None, 2 * vae.latent_channels, None, None)
    return Signature({"pictures": (None, 3, None, None)}, {"moments": moments, **_references(vae, "n")})


def decoder_signature(vae: VaeConfig) -> Signature:
    """Of an autoencoder's decoder."""
    latent = (None, vae.latent_channels, None, None)
    return Signature({"latents": latent, **_references(vae, "2")}, {"frames": (None, 3, None, None)})


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

        return Function(network, evaluate)
    if graph == "vae_encoder":
        return encoder_of(model.vae)
    if graph == "vae_decoder":
        return decoder_of(model.vae)
    if graph == "resampler":
        return model.resampler
    tower = model.text if graph == "text" else model.vision
    return Function(tower, tower.encode)


def encoder_of(vae: Autoencoder) -> nn.Module:
    """The encoder with the inputs and outputs of :func:`encoder_signature`."""

    def moments(pictures: Tensor) -> Any:
        if not isinstance(vae, VideoAutoencoder):
            return vae.quant_conv(vae.encoder(pictures))
        features: list[Tensor] = []
        found = vae.quant_conv(vae.encoder(pictures, features))
        return (found, *features)

    return Function(vae, moments)


def decoder_of(vae: Autoencoder) -> nn.Module:
    """The decoder with the inputs and outputs of :func:`decoder_signature`."""

    def frames(latents: Tensor, *features: Tensor) -> Tensor:
        if not isinstance(vae, VideoAutoencoder):
            return vae.decode(latents)
        references = [feature.transpose(0, 1).unsqueeze(0) for feature in features]
        return vae.decode_clip(latents, latents.shape[0], references)

    return Function(vae, frames)


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
    if graph == "vae_decoder" and variant.vae.video_decoder:
        return tuple(_ramp(_video_size(variant.vae, name, shape)) for name, shape in found.inputs.items())
    return example_of(found, free)


def example_of(found: Signature, free: Mapping[str, Sequence[int]]) -> tuple[Tensor, ...]:
    """Inputs to trace with; ``free`` are the lengths of an input's free axes, which are otherwise 1."""
    inputs: list[Tensor] = []
    for name, shape in found.inputs.items():
        lengths = iter(free.get(name, (1,) * len(shape)))
        size = [next(lengths) if length is None else length for length in shape]
        inputs.append(torch.ones(size, dtype=torch.int64) if name in found.integers else _ramp(size))
    return tuple(inputs)


def _ramp(size: Sequence[int]) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(size).numel()).reshape(*size)


def _video_size(vae: VaeConfig, name: str, shape: Sequence[int | None]) -> list[int]:
    """Sizes that go together: a clip of 3 frames, and each level's features of the same images."""
    channels = shape[1] or 1
    if name == "latents":
        return [3, channels, 2, 3]
    index = int(name.removeprefix("reference_"))
    scale = LATENT_FACTOR >> min(index % len(vae.channel_mult), len(vae.channel_mult) - 1)
    return [2, channels, 2 * scale, 3 * scale]
