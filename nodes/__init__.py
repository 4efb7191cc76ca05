"""The nodes of the pack."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .ambience import DynamiCrafterAmbience
from .animate import DynamiCrafterAnimate
from .animate_person import DynamiCrafterAnimatePerson
from .camera import DynamiCrafterCameraGuide
from .clip_figures import DynamiCrafterClipFigures
from .conditioning import (
    DynamiCrafterImageConditioning,
    DynamiCrafterInterpolation,
    DynamiCrafterLooping,
    DynamiCrafterViews,
)
from .control import DynamiCrafterHintFrames
from .decode import DynamiCrafterVAEDecode
from .director import (
    DynamiCrafterDirector,
    DynamiCrafterDirectorPlan,
    DynamiCrafterDirectorPrompt,
    DynamiCrafterSuggest,
)
from .film import DynamiCrafterFilm, DynamiCrafterFilmClip
from .generate import DynamiCrafterGenerate
from .host.files import register_folders
from .keyframes import DynamiCrafterKeyframes
from .loader import DynamiCrafterCheckpointLoader
from .long_clip import DynamiCrafterLongClip
from .person import (
    DynamiCrafterPersonConditioning,
    DynamiCrafterPersonLoader,
    DynamiCrafterPersonSampler,
)
from .poses import DynamiCrafterPoseAlignment, DynamiCrafterPoseDrawing
from .preset import DynamiCrafterPreset
from .sample_picture import DynamiCrafterSamplePicture, DynamiCrafterSamplePoses
from .sampler import DynamiCrafterSampler
from .story import DynamiCrafterStory
from .techniques import DynamiCrafterTechniques


class DynamiCrafterExtension(ComfyExtension):
    """The object from which the host gets our nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes, from the one-node workflow to the parts it consists of."""
        return [
            DynamiCrafterAnimate,
            DynamiCrafterKeyframes,
            DynamiCrafterStory,
            DynamiCrafterCheckpointLoader,
            DynamiCrafterImageConditioning,
            DynamiCrafterInterpolation,
            DynamiCrafterLooping,
            DynamiCrafterHintFrames,
            DynamiCrafterCameraGuide,
            DynamiCrafterViews,
            DynamiCrafterSampler,
            DynamiCrafterTechniques,
            DynamiCrafterVAEDecode,
            DynamiCrafterGenerate,
            DynamiCrafterLongClip,
            DynamiCrafterSuggest,
            DynamiCrafterDirector,
            DynamiCrafterDirectorPrompt,
            DynamiCrafterDirectorPlan,
            DynamiCrafterAmbience,
            DynamiCrafterClipFigures,
            DynamiCrafterFilmClip,
            DynamiCrafterFilm,
            DynamiCrafterPreset,
            DynamiCrafterSamplePicture,
            DynamiCrafterSamplePoses,
            DynamiCrafterAnimatePerson,
            DynamiCrafterPersonLoader,
            DynamiCrafterPoseAlignment,
            DynamiCrafterPoseDrawing,
            DynamiCrafterPersonConditioning,
            DynamiCrafterPersonSampler,
        ]


async def comfy_entrypoint() -> DynamiCrafterExtension:
    """Called once by the host; registers our model folders and routes."""
    # Not at the top: the nodes can be imported without the host's server.
    from .host.downloads import register_routes

    register_folders()
    register_routes()
    return DynamiCrafterExtension()
