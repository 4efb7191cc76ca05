"""The node that reads a checkpoint."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..dynamicrafter.errors import DynamiCrafterError
from ..dynamicrafter.model.variants import VARIANTS, Mode
from ..dynamicrafter.weights.detect import choose, detect
from ..dynamicrafter.weights.formats.files import open_weights
from .host.files import checkpoint_path, fingerprint, list_checkpoints
from .host.loading import WEIGHT_DTYPES, load_checkpoint
from .sockets import CATEGORY, schema

AUTO = "auto"
VARIANT_TIP = (
    "What the file is. auto reads it from the weights; where they cannot tell (512 from 512_interp, and most "
    "pruned files), the error names the choices."
)


class DynamiCrafterCheckpointLoader(io.ComfyNode):
    """Reads a checkpoint and gives its networks to the host."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterCheckpointLoader",
            display_name="DynamiCrafter Checkpoint Loader",
            category=CATEGORY,
            description="Reads a DynamiCrafter checkpoint: full (all outputs) or pruned (no CLIP and "
            "CLIP_VISION; use core CLIPLoader and CLIPVisionLoader for these). What it is, is told by its "
            "content.",
            search_aliases=["dynami crafter", "image to video", "load dynamicrafter"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=list_checkpoints(),
                    tooltip="From models/checkpoints, models/diffusion_models and models/dynamicrafter. The "
                    "built-in model needs no download.",
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
                    tooltip="How the weights are kept. auto follows ComfyUI's rules and start flags; fp8 "
                    "halves the memory at some loss of quality.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model", tooltip="The denoising network; works with our sampler and with core samplers."
                ),
                io.Clip.Output(
                    "clip", tooltip="Text encoder; empty for pruned checkpoints (use core CLIPLoader)."
                ),
                io.ClipVision.Output(
                    "clip_vision",
                    tooltip="Image encoder; empty for pruned checkpoints (use core CLIPVisionLoader).",
                ),
                io.Vae.Output(
                    "vae", tooltip="Autoencoder; works with our decode node and with core VAE nodes."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **_: Any) -> str:
        """Changes when the file does."""
        return fingerprint(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str, variant: str, weight_dtype: str) -> io.NodeOutput:
        """Read the file; errors are one sentence."""
        try:
            parts = load_checkpoint(
                checkpoint_path(checkpoint), None if variant == AUTO else variant, weight_dtype
            )
        except DynamiCrafterError as problem:
            raise ValueError(_in_words_of_the_graph(str(problem))) from problem
        return io.NodeOutput(parts.model, parts.clip, parts.clip_vision, parts.vae)


def variant_for(checkpoint: str, mode: Mode) -> str:
    """What to load a checkpoint as, told by its weights and, where these cannot tell, by what it is to do.

    AUTO where the weights alone decide. Raises ValueError that names the choices where both together cannot tell.
    """
    try:
        file = open_weights(checkpoint_path(checkpoint))
        every = detect(file)
        fits = tuple(variant for variant in every if mode in variant.modes)
        return choose(fits, None, file).name if fits and len(every) > 1 else AUTO
    except DynamiCrafterError as problem:
        raise ValueError(_in_words_of_the_graph(str(problem))) from problem


def _in_words_of_the_graph(message: str) -> str:
    """An error of the package, which speaks of command line options, as a node's."""
    for ours, theirs in _WORDS.items():
        message = message.replace(ours, theirs)
    return message


_WORDS = {
    "say it with --variant NAME": "choose it in the variant input",
    "leave the variant out": "set the variant input to auto",
    "which is given with --text-encoder or --image-encoder beside a checkpoint": (
        "which is loaded with core CLIPLoader or CLIPVisionLoader"
    ),
    "'dynamicrafter models' lists the ones that can be used": "the README lists the ones that can be used",
}
"""Advice of the package for the command line, and what it comes to in the graph."""
