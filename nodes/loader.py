"""The node that loads a checkpoint."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..dynamicrafter.model.variants import VARIANTS, Mode, Variant
from ..dynamicrafter.weights.detect import choose, detect
from ..dynamicrafter.weights.formats.files import open_weights
from ..dynamicrafter.weights.tensors import components_in
from .choices import advanced
from .host.files import EXPORTED, checkpoint_path, encoders_path, fingerprint, list_checkpoints
from .host.loading import WEIGHT_DTYPES, load_checkpoint
from .host.towers import NO_VISION
from .sockets import CATEGORY, schema
from .words import in_words_of_the_graph

AUTO = "auto"
BUILT_IN_TIP = (
    "The built-in models need no download: tiny makes coloured shapes of 64x64 pixels and nothing else, random is "
    "untrained, for tests."
)
VARIANT_TIP = (
    "Type of the file. auto detects it from the weights; if they are ambiguous (512 and 512_interp, and most "
    "pruned files), the error lists the choices."
)


def checkpoint_extras() -> list[Any]:
    """Inputs of the one-node workflows for checkpoints without encoders or of an ambiguous type."""
    return [
        io.Clip.Input("clip", optional=True, raw_link=True, tooltip="Text encoder, for pruned checkpoints."),
        io.ClipVision.Input(
            "clip_vision", optional=True, raw_link=True, tooltip="Image encoder, for pruned checkpoints."
        ),
        io.Combo.Input(
            "variant",
            options=[AUTO, *sorted(VARIANTS)],
            default=AUTO,
            optional=True,
            tooltip=VARIANT_TIP,
            extra_dict=advanced(),
        ),
    ]


class DynamiCrafterCheckpointLoader(io.ComfyNode):
    """Loads a checkpoint and outputs its networks as the host's objects."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterCheckpointLoader",
            display_name="DynamiCrafter Checkpoint Loader",
            category=CATEGORY,
            description="Loads a DynamiCrafter checkpoint, either full or pruned (CLIP and CLIP_VISION then come "
            "from open_clip_model.safetensors). Its type is detected from its contents.",
            search_aliases=["dynami crafter", "image to video", "load dynamicrafter"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=list_checkpoints(),
                    tooltip="Files in models/checkpoints, models/diffusion_models and models/dynamicrafter. "
                    f"{BUILT_IN_TIP}",
                ),
                io.Combo.Input(
                    "variant",
                    options=[AUTO, *sorted(VARIANTS)],
                    default=AUTO,
                    tooltip=VARIANT_TIP,
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=WEIGHT_DTYPES,
                    default=AUTO,
                    tooltip="Data type in which the weights are stored. auto follows ComfyUI's rules and "
                    "command-line options; fp8 halves the memory at some loss of quality, int8 at less.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model",
                    tooltip="The denoising network, for DynamiCrafter Sampler or core samplers.",
                ),
                io.Clip.Output(
                    "clip",
                    tooltip="Text encoder. Empty if the checkpoint is pruned and open_clip_model.safetensors is "
                    "missing.",
                ),
                io.ClipVision.Output(
                    "clip_vision",
                    tooltip="Image encoder. Empty if the checkpoint is pruned and open_clip_model.safetensors is "
                    "missing.",
                ),
                io.Vae.Output("vae", tooltip="Autoencoder, for DynamiCrafter VAE Decode or core VAE nodes."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **_: Any) -> str:
        """Changes when the file does."""
        return fingerprint(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str, variant: str, weight_dtype: str) -> io.NodeOutput:
        """Load the file; errors are one sentence."""
        with in_words_of_the_graph():
            parts = load_checkpoint(
                checkpoint_path(checkpoint),
                None if variant == AUTO else variant,
                weight_dtype,
                checkpoint.endswith(EXPORTED),
            )
        return io.NodeOutput(parts.model, parts.clip, parts.clip_vision, parts.vae)


def variant_for(checkpoint: str, mode: Mode) -> str:
    """The variant to load a checkpoint as, detected from its weights and, if these are ambiguous, from ``mode``.

    AUTO if the weights alone are sufficient. Raises ValueError with the choices if both together are ambiguous.
    """
    with in_words_of_the_graph():
        file = open_weights(checkpoint_path(checkpoint))
        every = detect(file)
        fits = tuple(variant for variant in every if mode in variant.modes)
        return choose(fits, None, file).name if fits and len(every) > 1 else AUTO


def loaded_as(checkpoint: str, variant: str) -> Variant:
    """What the loader makes of a checkpoint with its input ``variant``, from the list of tensors alone."""
    with in_words_of_the_graph():
        chosen, _ = components_in(checkpoint_path(checkpoint), None if variant == AUTO else variant)
    return chosen


def require_encoders(checkpoint: str, variant: str, clip: Any, clip_vision: Any) -> None:
    """Raise ValueError before a checkpoint is loaded if it lacks an encoder and nothing else supplies it."""
    if encoders_path() is not None:
        return
    with in_words_of_the_graph():
        _, present = components_in(checkpoint_path(checkpoint), None if variant == AUTO else variant)
    if clip is None and "text" not in present:
        raise ValueError(
            "there is no text encoder in this checkpoint; connect a core CLIPLoader with the SD 2.1 encoder to clip, "
            "or put open_clip_model.safetensors into models/text_encoders"
        )
    if clip_vision is None and "vision" not in present:
        raise ValueError(NO_VISION)
