"""The nodes of the pack."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .animate import DynamiCrafterAnimate
from .conditioning import (
    DynamiCrafterImageConditioning,
    DynamiCrafterInterpolation,
    DynamiCrafterLooping,
)
from .decode import DynamiCrafterVAEDecode
from .host.files import register_folders
from .loader import DynamiCrafterCheckpointLoader
from .preset import DynamiCrafterPreset
from .sample_picture import DynamiCrafterSamplePicture
from .sampler import DynamiCrafterSampler


class DynamiCrafterExtension(ComfyExtension):
    """What the host asks for our nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes, from the one-node start to the parts it is made of."""
        return [
            DynamiCrafterAnimate,
            DynamiCrafterCheckpointLoader,
            DynamiCrafterImageConditioning,
            DynamiCrafterInterpolation,
            DynamiCrafterLooping,
            DynamiCrafterSampler,
            DynamiCrafterVAEDecode,
            DynamiCrafterPreset,
            DynamiCrafterSamplePicture,
        ]


async def comfy_entrypoint() -> DynamiCrafterExtension:
    """Called once by the host; our model folders are known from then on."""
    register_folders()
    return DynamiCrafterExtension()
