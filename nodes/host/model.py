"""The network as a native MODEL of the host: stock samplers, LoRA, compilation and offloading work on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.ldm.modules.attention
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.supported_models_base
import torch
from einops import rearrange
from torch import Tensor

from ...dynamicrafter.diffusion.schedule import make_schedule
from ...dynamicrafter.model.attention import SelfAttention, SpatialTransformer
from ...dynamicrafter.model.conditioning import KeyLatents, low_pass, with_image_noise
from ...dynamicrafter.model.configs import UNetConfig
from ...dynamicrafter.model.operations import Attention, Operations
from ...dynamicrafter.model.preview import PreviewColours
from ...dynamicrafter.model.protocols import Context, Network
from ...dynamicrafter.model.unet import VideoUNet
from ...dynamicrafter.model.variants import Variant
from ...dynamicrafter.model.weakening import replaced_attention
from ...dynamicrafter.weights.tensors import ComponentTensors
from .control import check_controls, residuals_of, show_each_frame_its_hint
from .memory import unet_activation_bytes
from .quantised import HostQuantisedLayers, place_weights
from .run import check_latent
from .sampling import RescaledSampling

TOKENS = "dynamicrafter_tokens"
"""Key of a conditioning entry: image tokens ``[1, f, n, c]``, one group for each frame of the training length."""
KEYFRAMES = "dynamicrafter_keyframes"
"""Key of a conditioning entry: a :class:`~dynamicrafter.model.conditioning.KeyLatents`.

Kept until sampling, so that a new seed gives the same result as the command line and nothing is encoded again.
"""
IMAGE_NOISE = "dynamicrafter_image_noise"
"""Key of a conditioning entry: noise ``[1, 4, 1, h, w]`` that is added to the image latents of every frame."""
LOW_PASS = "dynamicrafter_low_pass"
"""Key of a conditioning entry: the size to which the image latents are reduced and enlarged again, 0 to 1."""
FS = "dynamicrafter_fs"
"""Key of a conditioning entry: the frame stride or rate, an integer."""
NETWORK_WRAPPER = "dynamicrafter_network_wrapper"
"""Key of the options of an evaluation: a :data:`~dynamicrafter.model.protocols.NetworkWrapper`."""


def posterior_noise(generator: torch.Generator, keys: KeyLatents) -> Tensor:
    """The first sample of a clip's generator, ``[1, t, 4, h, w]``; the same as the command's."""
    return torch.randn((keys.frames, *keys.keys[0].mean.shape[1:]), generator=generator)[None]


class HostAttention:
    """The host's attention, with the options of the current evaluation."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """``[b, n, heads * d]`` in and out."""
        attention = comfy.ldm.modules.attention.optimized_attention
        return attention(q, k, v, heads, transformer_options=self.options)


def refuse_extras(control: Any, options: dict[str, Any], attn1: int = 0) -> None:
    """Raise ValueError for additions that would have no effect or give wrong results.

    ``control`` is what a network without ControlNets is given of one. ``attn1`` is how many replacements of spatial
    self-attention the network takes; there must be no others.
    """
    if control is not None:
        raise ValueError(
            "this model does not support ControlNets; remove the Apply ControlNet node before the sampler"
        )
    replaced, added = options.get("patches_replace", {}), options.get("patches", {})
    patched = sorted(
        name
        for name, found in {**added, **replaced}.items()
        if found and not (name == "attn1" and name not in added and len(found) == attn1)
    )
    if patched:
        raise ValueError(
            f"this model does not support patches of its layers ({', '.join(patched)}) yet; remove the node that adds "
            f"them, such as Perturbed-Attention Guidance, FreeU or HyperTile"
        )


def refuse_windows(handler: Any, noise: Tensor, keyframes: KeyLatents) -> None:
    """Raise ValueError if ``handler``, the host's Context Windows or None, would split latents in a wrong way.

    A window between two key frames would have no image, which the models were not trained on.
    """
    if handler is None:
        return
    dim, window = handler.dim, handler.context_length
    if dim < noise.ndim and noise.shape[dim] <= window:
        return
    if dim != 0:
        raise ValueError(
            f"Context Windows splits dimension {dim} of the latent, which is {' x '.join(map(str, noise.shape))}, into "
            f"windows of {window}, but its frames are dimension 0; set dim to 0 in Context Windows (Manual)"
        )
    if not keyframes.everywhere:
        raise ValueError(
            f"Context Windows splits a clip of {len(noise)} frames into windows of {window}, of which those between "
            f"the images of an interpolation or a loop have no image; remove the Context Windows node, and use "
            f"DynamiCrafter Keyframes or DynamiCrafter Long Clip"
        )


def _without_anchor(x: Tensor, clips: int, options: dict[str, Any]) -> tuple[Tensor, bool]:
    """``x`` without the frame that Context Windows may put before each window, and whether there was one.

    The host does so for other models, and drops the first frame of the output; here it would be one frame more than the
    network was trained on.
    """
    window = options.get("context_window")
    if getattr(window, "causal_anchor_index", -1) in (-1, None):
        return x, False
    return rearrange(
        rearrange(x, "(b t) c h w -> b t c h w", b=clips)[:, 1:], "b t c h w -> (b t) c h w"
    ), True


class HostUNet(VideoUNet):
    """The network with the signature that the host calls: frames in the batch, text in ``context``, keywords.

    A subclass, so that parameter names stay those of the checkpoints and LoRA files match.
    """

    def __init__(self, config: UNetConfig, dtype: Any, device: Any, operations: Any) -> None:
        host_attention = HostAttention()
        super().__init__(config, Operations(operations, host_attention, dtype, device))
        self.dtype = dtype
        self.host_attention = host_attention

    def to(self, *arguments: Any, memory_format: torch.memory_format | None = None, **named: Any) -> Any:
        """As in PyTorch, but ``channels_last`` applies to 4-D weights only.

        The host's --force-channels-last asks for it. PyTorch defines it for four dimensions and raises for the
        temporal convolutions, which have five.
        """
        if arguments or named:
            super().to(*arguments, **named)
        if memory_format is not None:
            for parameter in self.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.to(memory_format=memory_format)
        return self

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **conditions: Any,
    ) -> Tensor:
        """``[(b t), 8, h, w]`` to ``[(b t), 4, h, w]``; every condition is repeated for each frame.

        Other nodes may have wrapped it, as the host's own networks. Raises ValueError for features of the host that
        this network does not support: T2I-Adapters, and patches of anything but spatial self-attention.
        """
        options = transformer_options or {}
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        wrappers = comfy.patcher_extension.get_all_wrappers(kind, options)
        if not wrappers:
            return self._evaluate(x, timesteps, context, None, control, options, **conditions)
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._evaluate, self, wrappers)
        return executor.execute(x, timesteps, context, None, control, options, **conditions)

    def _evaluate(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: None,
        control: Any,
        transformer_options: dict[str, Any],
        *,
        image_tokens: Tensor,
        fs: Tensor,
        **_: Any,
    ) -> Tensor:
        """The arguments are those that wrappers of the host's networks for Stable Diffusion expect, ``y`` included."""
        replaced = self._replaced(transformer_options)
        refuse_extras(None, transformer_options, attn1=len(replaced))
        residuals = residuals_of(control, len(self.input_blocks), x.dtype)
        network = partial(super().forward, residuals=residuals)
        self.host_attention.options = transformer_options
        try:
            with replaced_attention(replaced):
                return evaluate_frames(network, x, timesteps, context, image_tokens, fs, transformer_options)
        finally:
            self.host_attention.options = {}

    def _replaced(self, options: dict[str, Any]) -> list[tuple[SelfAttention, Attention]]:
        """The spatial self-attentions for which another node has put its own function, such as core's PAG, and that.

        The host names them by block, as in Stable Diffusion: ``("middle", 0)``, or with a 0 for the transformer.
        """
        patches = options.get("patches_replace", {}).get("attn1", {})
        if not patches:
            return []
        stages = {"input": self.input_blocks, "middle": [self.middle_block], "output": self.output_blocks}
        found: list[tuple[SelfAttention, Attention]] = []
        for (name, index, *rest), patch in patches.items():
            blocks = stages.get(name, [])
            stage = blocks[index] if index < len(blocks) and rest in ([], [0]) else []
            for part in stage:
                if isinstance(part, SpatialTransformer):
                    attention = _patched(patch, {**options, "block": (name, index), "block_index": 0})
                    found.append((part.transformer_blocks[0].attn1, attention))  # pyright: ignore
        return found


def _patched(patch: Any, options: dict[str, Any]) -> Attention:
    """A node's function for an attention, with the host's arguments, as an attention."""

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return patch(q, k, v, {**options, "n_heads": heads, "dim_head": q.shape[-1] // heads})

    return attention


def evaluate_frames(
    network: Network,
    x: Tensor,
    timesteps: Tensor,
    context: Tensor,
    image_tokens: Tensor,
    fs: Tensor,
    options: dict[str, Any],
) -> Tensor:
    """A network of clips on what the host calls with.

    ``[(b t), 8, h, w]`` to ``[(b t), 4, h, w]``. ``timesteps`` and ``context`` are repeated for each frame, while
    ``image_tokens`` ``[b, f, n, c]`` and ``fs`` ``[b]`` are those of clips. Frames are counted here, because nodes of
    the host, such as Context Windows, evaluate some of them at a time.
    """
    clips = image_tokens.shape[0]
    x, anchored = _without_anchor(x, clips, options)
    frames = x.shape[0] // clips
    stride = len(timesteps) // clips
    network = options.get(NETWORK_WRAPPER, _unchanged)(network)
    out = network(
        rearrange(x, "(b t) c h w -> b c t h w", t=frames),
        timesteps[::stride],
        Context(context[::stride], image_tokens),
        fs,
    )
    out = rearrange(out, "b c t h w -> b t c h w")
    if anchored:
        out = torch.cat([out[:, :1], out], dim=1)
    return rearrange(out, "b t c h w -> (b t) c h w")


def _unchanged(network: Network) -> Network:
    return network


class _OfClip(comfy.conds.CONDRegular):
    """A condition of a whole clip, which is not repeated for its frames."""

    def process_cond(self, *_: Any, **__: Any) -> Any:
        """Called by the host before an evaluation."""
        return self._copy_with(self.cond)


def latent_format(preview: PreviewColours | None) -> Any:
    """The host's description of the latents: Stable Diffusion's, except for preview colours of the checkpoint's own."""
    found = comfy.latent_formats.SD15()
    if preview is not None:
        found.latent_rgb_factors = [list(row) for row in preview.factors]
        found.latent_rgb_factors_bias = list(preview.bias)
        # The small decoder for previews belongs to Stable Diffusion's autoencoder.
        found.taesd_decoder_name = None
    return found


class HostConfig(comfy.supported_models_base.BASE):
    """The host's description of the model, read off its variant."""

    latent_format = comfy.latent_formats.SD15
    unet_extra_config: dict[str, Any] = {}
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]

    def __init__(self, variant: Variant, preview: PreviewColours | None) -> None:
        # The host passes these on to the network; its LoRA mapper mistakes names such as num_res_blocks for its own.
        super().__init__({"config": variant.unet})
        self.variant = variant
        self.latent_format = latent_format(preview)


class HostModel(comfy.model_base.BaseModel):
    """The network, its noise process and its conditions, as the host's samplers use them."""

    def __init__(self, config: HostConfig, device: Any) -> None:
        kinds = comfy.model_base.ModelType
        kind = kinds.V_PREDICTION if config.variant.diffusion.prediction == "v" else kinds.EPS
        super().__init__(config, kind, device=device, unet_model=HostUNet)
        self.variant = config.variant
        self.model_sampling = RescaledSampling(make_schedule(config.variant.diffusion))

    def extra_conds(self, **given: Any) -> dict[str, Any]:
        """Conditions of one evaluation from a conditioning entry and the run's noise and seed.

        Called by the host before the first step, so that mismatches are reported before anything is computed.
        """
        text, tokens, keyframes = given.get("cross_attn"), given.get(TOKENS), given.get(KEYFRAMES)
        if text is None or tokens is None or keyframes is None:
            raise ValueError(
                "this model needs an image, but the conditioning has none; connect positive and negative of "
                "DynamiCrafter Image Conditioning, Interpolation or Looping to the sampler"
            )
        noise, device = given["noise"], given["device"]
        check_latent(noise)
        check_controls(given.get("control"), self.variant.unet, len(noise))
        expected = (keyframes.frames, *keyframes.keys[0].mean.shape[1:])
        if tuple(noise.shape) != expected:
            raise ValueError(
                f"the latent is {shape_text(noise.shape)}, but the images were conditioned for {shape_text(expected)}; "
                f"connect the latent output of the conditioning node, or use the same size and length for both"
            )
        patcher = self.current_patcher
        handler = None if patcher is None else patcher.model_options.get("context_handler")
        refuse_windows(handler, noise, keyframes)
        generator = torch.Generator().manual_seed(given.get("seed") or 0)
        concat = keyframes.draw(posterior_noise(generator, keyframes))
        if IMAGE_NOISE in given:
            concat = with_image_noise(concat, given[IMAGE_NOISE].to(concat.device))
        if LOW_PASS in given:
            concat = low_pass(concat, given[LOW_PASS])
        concat = rearrange(concat, "1 c t h w -> t c h w")
        return {
            "c_concat": comfy.conds.CONDNoiseShape(concat.to(device)),
            "c_crossattn": comfy.conds.CONDCrossAttn(text.to(device)),
            "image_tokens": _OfClip(tokens.to(device)),
            "fs": _OfClip(torch.tensor([given[FS]], device=device)),
        }

    def memory_required(self, input_shape: Any, cond_shapes: Any = None) -> float:
        """Bytes of activations for latents ``[(b t), 4, h, w]``, by calibrated measurement (docs/memory.md)."""
        cells = input_shape[0] * input_shape[-2] * input_shape[-1]
        return unet_activation_bytes(self.variant.unet, cells, self.manual_cast_dtype or self.get_dtype())


def shape_text(shape: Any) -> str:
    """The size and length of a clip with latents ``[t, 4, h, w]`` of a shape, in words."""
    frames, _, height, width = shape
    return f"{width * 8}x{height * 8} with {frames} frames"


def build_model(
    variant: Variant,
    stored: ComponentTensors,
    dtype: str,
    preview: PreviewColours | None = None,
    disable_dynamic: bool = False,
) -> Any:
    """A model patcher for the network with ``stored`` weights; ``dtype`` "auto" follows the host's rules and flags.

    Quantised weights take the host's older kind of patcher: the newer one keeps weights in a form of its own.
    """
    config = HostConfig(variant, preview)
    patcher = build_native(config, HostModel, stored, dtype, disable_dynamic)
    config.unet_config.update(_stable_diffusion_layout(variant.unet))
    show_each_frame_its_hint(patcher)
    return patcher


def build_native(
    config: Any,
    kind: Callable[[Any, Any], Any],
    stored: ComponentTensors,
    dtype: str,
    disable_dynamic: bool = False,
) -> Any:
    """A model patcher for a model that ``kind`` makes of the host's ``config`` and a device, with ``stored`` weights.

    As :func:`build_model` in all else.
    """
    management = comfy.model_management
    load_device, offload_device = management.get_torch_device(), management.unet_offload_device()
    weights = stored.tensors
    parameters = sum(tensor.numel() for tensor in weights.values())
    chosen, manual_cast = choose_dtypes(stored, dtype, config.supported_inference_dtypes)
    config.set_inference_dtype(chosen, manual_cast)
    first_device = management.unet_inital_load_device(parameters, chosen)
    if stored.quantised is not None:
        config.custom_operations = HostQuantisedLayers
        first_device, disable_dynamic = torch.device("cpu"), True
    model = kind(config, first_device)
    patcher = make_patcher(model, load_device, offload_device, disable_dynamic)
    if stored.quantised is None:
        load_weights(model.diffusion_model, weights, patcher, chosen)
    else:
        place_weights(model.diffusion_model, weights, chosen)
    if first_device != torch.device("cpu"):
        # It is on the accelerator already; from now on the host counts it and can unload it.
        management.load_models_gpu([patcher], force_full_load=True)
    return patcher


def choose_dtypes(
    stored: ComponentTensors, dtype: str, supported: list[torch.dtype]
) -> tuple[torch.dtype, torch.dtype | None]:
    """The dtype in which weights are kept, and the one they are cast to for computing, None if it is the same.

    ``dtype`` "auto" follows the host's rules and flags.
    """
    management = comfy.model_management
    device = management.get_torch_device()
    chosen = STORAGE_DTYPES.get(dtype) or management.unet_dtype(
        device=device,
        model_params=sum(tensor.numel() for tensor in stored.tensors.values()),
        supported_dtypes=supported,
        weight_dtype=stored.dtype,
    )
    return chosen, management.unet_manual_cast(chosen, device, supported)


def _stable_diffusion_layout(config: UNetConfig) -> dict[str, Any]:
    """The network's layout in the host's terms, by which it finds the layers that a Stable Diffusion 2.1 LoRA targets.

    Spatial layers are where they are in Stable Diffusion. Set after the network is built, which does not accept these
    names; lists, because the host indexes them.
    """
    levels = len(config.channel_mult)
    attended = [int(2**level in config.attention_factors) for level in range(levels)]
    blocks = config.num_res_blocks
    return {
        "model_channels": config.model_channels,
        "num_res_blocks": [blocks] * levels,
        "channel_mult": list(config.channel_mult),
        "transformer_depth": [depth for depth in attended for _ in range(blocks)],
        "transformer_depth_output": [depth for depth in attended for _ in range(blocks + 1)],
        "transformer_depth_middle": 1,
    }


STORAGE_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
"""Choices of the dtype in which weights are stored, in addition to "auto"."""


def make_patcher(
    model: torch.nn.Module, load_device: Any, offload_device: Any, disable_dynamic: bool = False
) -> Any:
    """The host's current kind of model patcher (it may be replaced at start-up) for a module without weights yet.

    ``disable_dynamic`` requests the older kind that all hosts have.
    """
    if hasattr(comfy.model_management, "archive_model_dtypes"):
        # Streamed weights keep the file's dtype and are cast to the dtype that the layers were built with.
        comfy.model_management.archive_model_dtypes(model)
    plain = comfy.model_patcher.ModelPatcher
    kind = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    return kind(model, load_device=load_device, offload_device=offload_device)


def load_weights(
    module: torch.nn.Module, weights: dict[str, Tensor], patcher: Any, dtype: torch.dtype
) -> None:
    """Load all of ``weights``, strictly; hosts that stream weights keep the file's tensors themselves."""
    dynamic = hasattr(patcher, "is_dynamic") and patcher.is_dynamic()
    module.load_state_dict(weights, strict=True, assign=dynamic)
    if not dynamic:
        # Layers of a host that can stream take over the file's dtype, whatever they were built with.
        module.to(dtype)
    module.requires_grad_(False)
    module.train(False)
