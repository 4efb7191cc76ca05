"""The node that measures a finished clip."""

from __future__ import annotations

import json

import torch
from comfy_api.latest import io
from torch import Tensor

from ..dynamicrafter.evaluation.figures import measure_clip
from ..dynamicrafter.evaluation.measure import check_frame_size
from ..dynamicrafter.evaluation.sentence import describe
from ..dynamicrafter.media.pictures import as_picture, fit_picture, normalise
from ..dynamicrafter.settings import Fit
from .choices import advanced, choice
from .encode import single
from .notes import NOTES
from .sockets import CATEGORY, image, schema
from .words import in_words_of_the_graph


class DynamiCrafterClipFigures(io.ComfyNode):
    """What can be measured of a clip without a network."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterClipFigures",
            display_name="DynamiCrafter Clip Figures",
            category=CATEGORY,
            description="Measures a finished clip without a network: where and how far things move, whether it begins "
            "with its image, flicker, drift of colours, sharpness. The metrics are those of 'dynamicrafter evaluate'.",
            search_aliases=["metrics", "quality", "evaluate", "measure", "flicker", "motion"],
            inputs=[
                image("images", "The frames of the clip, as a batch of images."),
                image(
                    "image",
                    "The image that the clip was generated from; without it, colours are compared with the first "
                    "frame.",
                    optional=True,
                ),
                image("last_image", "The image that the clip should end with.", optional=True),
                choice(
                    "fit",
                    "The same value as in the node that generated the clip.",
                    optional=True,
                    extra_dict=advanced(),
                ),
            ],
            outputs=[
                io.String.Output(
                    "sentence", tooltip="What the metrics say, in one sentence; it is shown on the node, too."
                ),
                io.String.Output("metrics", tooltip="All metrics as a JSON object, by their names."),
            ],
        )

    @classmethod
    def execute(
        cls, images: Tensor, image: Tensor | None = None, last_image: Tensor | None = None, fit: Fit = "crop"
    ) -> io.NodeOutput:
        """Measure; raises ValueError for frames that are too small."""
        height, width = images.shape[1:3]

        def fitted(given: Tensor | None, name: str) -> Tensor | None:
            return None if given is None else fit_picture(as_picture(single(given, name)), width, height, fit)

        with in_words_of_the_graph():
            check_frame_size(width, height)
            clip = torch.stack([normalise(as_picture(frame)) for frame in images])
            figures = measure_clip(clip, fitted(image, "image"), fitted(last_image, "last_image"))
        said = describe(figures)
        return io.NodeOutput(said, json.dumps(figures), ui={NOTES: [said]})
