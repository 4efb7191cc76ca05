"""AnimateAnyone's denoising network as a native MODEL of the host, a sibling of the one in :mod:`.model`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.supported_models_base
import torch
from einops import rearrange
from torch import Tensor

from ...dynamicrafter.animate_anyone.attention import Features
from ...dynamicrafter.animate_anyone.config import MAX_WINDOW, PersonConfig
from ...dynamicrafter.animate_anyone.pipeline import DIFFUSION
from ...dynamicrafter.animate_anyone.pose_guider import PoseGuider
from ...dynamicrafter.animate_anyone.unet import DenoisingUNet
from ...dynamicrafter.diffusion.schedule import make_schedule
from ...dynamicrafter.diffusion.windows import Blend, Window
from ...dynamicrafter.model.operations import Operations
from .memory import pair_activation_bytes
from .model import HostAttention, refuse_extras, shape_text
from .run import check_latent
from .sampling import RescaledSampling

PERSON = "dynamicrafter_person"
"""Key of a conditioning entry: a :class:`PersonClip`."""


@dataclass(frozen=True, eq=False)
class PersonClip:
    """What a clip is made from, apart from the embedding of its reference.

    No two are equal, so that the host evaluates each by itself: its rows of frames are one clip.
    """

    features: Features | None
    """What the reference network saw, tokens ``[1, n, c]`` by path; None in the negative conditioning."""
    poses: Tensor
    """Drawn poses, uint8 ``[f, 3, H, W]`` on the CPU; their number and size are the clip's."""
    windows: tuple[Window, ...]


class HostDenoisingUNet(DenoisingUNet):
    """The network with the signature that the host calls, and the pose guider, which is small and always needed."""

    def __init__(self, config: PersonConfig, dtype: Any, device: Any, operations: Any) -> None:
        host_attention = HostAttention()
        built_with = Operations(operations, host_attention, dtype, device)
        super().__init__(config.pair, built_with)
        self.pose_guider = PoseGuider(config.pose_guider, built_with)
        self.dtype = dtype
        self.host_attention = host_attention

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        *,
        clip: PersonClip,
        **_: Any,
    ) -> Tensor:
        """``[f, 4, h, w]`` in and out, window by window; every other condition is repeated for each frame.

        Raises ValueError for what this network does not support, as :class:`~.model.HostUNet`.
        """
        refuse_extras(control, transformer_options or {})
        self.host_attention.options = transformer_options or {}
        latents = rearrange(x, "f c h w -> 1 c f h w")
        try:
            reference = None
            if clip.features is not None:
                reference = self.project({path: tokens.to(x) for path, tokens in clip.features.items()})

            blend = Blend(latents.float())
            for window in clip.windows:
                comfy.model_management.throw_exception_if_processing_interrupted()
                chosen = list(window.frames)
                poses = clip.poses[chosen].to(x.device, x.dtype) / 255
                pose = self.pose_guider(poses.movedim(0, 1)[None])
                blend.add(
                    window,
                    super().forward(latents[:, :, chosen], timesteps[:1], context[:1], pose, reference),
                )
            out = blend.mean()
        finally:
            self.host_attention.options = {}
        return rearrange(out, "1 c f h w -> f c h w")


class HostPersonConfig(comfy.supported_models_base.BASE):
    """The host's description of the model."""

    latent_format = comfy.latent_formats.SD15
    unet_extra_config: dict[str, Any] = {}
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]

    def __init__(self, config: PersonConfig) -> None:
        super().__init__({"config": config})
        self.person = config


class HostPersonModel(comfy.model_base.BaseModel):
    """The network, its noise process and its conditions, as the host's samplers use them."""

    def __init__(self, config: HostPersonConfig, device: Any) -> None:
        kind = comfy.model_base.ModelType.V_PREDICTION
        super().__init__(config, kind, device=device, unet_model=HostDenoisingUNet)
        self.person = config.person
        self.model_sampling = RescaledSampling(make_schedule(DIFFUSION))

    def extra_conds(self, **given: Any) -> dict[str, Any]:
        """Conditions of one evaluation from a conditioning entry and the run's noise.

        Called by the host before the first step, so that mismatches are reported before anything is computed.
        """
        context, clip = given.get("cross_attn"), given.get(PERSON)
        if context is None or not isinstance(clip, PersonClip):
            raise ValueError(
                "this model needs a person and poses, but the conditioning has none; connect positive and negative of "
                "DynamiCrafter Person Conditioning to the sampler"
            )
        noise, device = given["noise"], given["device"]
        check_latent(noise)
        frames, _, height, width = clip.poses.shape
        expected = (frames, noise.shape[1], height // 8, width // 8)
        if tuple(noise.shape) != expected:
            raise ValueError(
                f"the latent is {shape_text(noise.shape)}, but the poses are {shape_text(expected)}; connect the "
                f"latent output of the conditioning node, or use the same size and length for both"
            )
        patcher = self.current_patcher
        if patcher is not None and patcher.model_options.get("context_handler") is not None:
            raise ValueError(
                "this model has windows of its own; remove the Context Windows node, and set window and overlap in "
                "DynamiCrafter Person Conditioning"
            )
        if clip.features is not None:
            clip = replace(clip, features={path: tokens.to(device) for path, tokens in clip.features.items()})
        return {
            "c_crossattn": comfy.conds.CONDCrossAttn(context.to(device)),
            # A copy in any case, so that the host does not find two conditionings equal.
            "clip": comfy.conds.CONDConstant(replace(clip)),
        }

    def memory_required(self, input_shape: Any, cond_shapes: Any = None) -> float:
        """Bytes of activations for latents ``[f, 4, h, w]``, of which at most one window is evaluated at once."""
        cells = min(input_shape[0], MAX_WINDOW) * input_shape[-2] * input_shape[-1]
        return pair_activation_bytes(self.person.pair, cells, self.manual_cast_dtype or self.get_dtype())


def person_config(model: Any) -> PersonConfig:
    """The sizes of a MODEL's networks; raises ValueError for a model of another kind."""
    config = getattr(model.model, "person", None)
    if not isinstance(config, PersonConfig):
        raise ValueError(
            "model is not a person model; connect the MODEL output of DynamiCrafter Person Loader"
        )
    return config


def person_clip(conditioning: Any) -> PersonClip:
    """The clip of a conditioning; raises ValueError if it has none."""
    for _, options in conditioning:
        if PERSON in options:
            return options[PERSON]
    raise ValueError(
        "the positive conditioning has no person; connect the output of DynamiCrafter Person Conditioning"
    )
