"""The one-node workflow of stories: scenes in words to a film with sound."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder
from torch import Tensor

from ..dynamicrafter.api import notes_on
from ..dynamicrafter.director.scenes import Story, story_of
from ..dynamicrafter.director.shot_list import clips_of_story, ends_among, sources_of
from ..dynamicrafter.errors import UsageError
from ..dynamicrafter.model.variants import Mode, Variant
from ..dynamicrafter.parameters import PARAMETERS, of_group
from ..dynamicrafter.settings import Settings
from .choices import INPUT_NAMES, OWN, advanced, choice, chosen_by, full_size, require
from .film import film_outputs
from .host.files import fingerprint, list_checkpoints
from .loader import AUTO, BUILT_IN_TIP, checkpoint_extras, loaded_as, require_encoders, variant_for
from .notes import NOTES
from .sockets import CATEGORY, image, schema
from .words import in_words_of_the_graph

_NONE = "none"
_MOST_SCENES = 60
"""The host walks through the graph by recursion, whose depth is limited."""
_logger = logging.getLogger(__name__)
_EXAMPLE = "a red circle moves right\n\na red circle moves up"
_OF_LENGTH = tuple(each.name for group in ("length", "faithfulness") for each in of_group(group))
_NOT_HERE = ("noise_device", *(each.name for each in of_group("control")))
"""Settings that a clip of a graph does not have."""


class DynamiCrafterStory(io.ComfyNode):
    """Expands into loaders, DynamiCrafter Generate for each scene, and the nodes that join them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterStory",
            display_name="DynamiCrafter Story",
            category=CATEGORY,
            description="Generates a film of several scenes with sound from a story: plain text with a scene in each "
            "paragraph, or YAML. Images are those of the input, by their number; no story names a file.",
            search_aliases=["film", "movie", "scenes", "storyboard", "video with sound"],
            enable_expand=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                image("images", "The images of the story in order, as a batch; core Batch Images makes one."),
                io.String.Input(
                    "story",
                    default=_EXAMPLE,
                    multiline=True,
                    tooltip="A paragraph for each scene, which continues the one before, or begins with an image by "
                    "its number, such as [2]. Or YAML with a list of scenes.",
                ),
                io.Combo.Input(
                    "checkpoint",
                    options=list_checkpoints(),
                    tooltip=f"{BUILT_IN_TIP} The encoders that a pruned checkpoint needs are downloaded with it.",
                ),
                *[choice(name) for name in ("motion", "seed")],
                io.Boolean.Input(
                    "mute", default=False, optional=True, tooltip="Leave the sound out of the film."
                ),
                *[choice(name, optional=True) for name in ("steps", "cfg")],
                io.Combo.Input(
                    "between_checkpoint",
                    options=[_NONE, *list_checkpoints()],
                    default=_NONE,
                    optional=True,
                    tooltip="The model for interpolations, such as 512_interp; none uses checkpoint for them, too.",
                    extra_dict=advanced(),
                ),
                *checkpoint_extras(),
                *[choice(name, optional=True, extra_dict=advanced()) for name in ("width", "height")],
            ],
            outputs=film_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, between_checkpoint: str = _NONE, **_: Any) -> str:
        """Changes when the file of a checkpoint does."""
        others = [] if between_checkpoint == _NONE else [fingerprint(between_checkpoint)]
        return " ".join([fingerprint(checkpoint), *others])

    @classmethod
    def execute(
        cls,
        images: Tensor,
        story: str,
        checkpoint: str,
        mute: bool = False,
        between_checkpoint: str = _NONE,
        clip: Any = None,
        clip_vision: Any = None,
        variant: str = AUTO,
        **choices: Any,
    ) -> io.NodeOutput:
        """Plan the film and build the graph; only scenes that changed, and those that continue them, run again."""
        require(**choices)
        apart = between_checkpoint != _NONE

        @cache
        def loading(mode: Mode) -> tuple[str, str]:
            """Checkpoint and variant for a mode, as inputs of the loader."""
            if apart and mode == "interpolate":
                return between_checkpoint, variant_for(between_checkpoint, mode)
            return checkpoint, variant_for(checkpoint, "animate") if variant == AUTO else variant

        def variant_of(mode: Mode) -> Variant:
            return loaded_as(*loading(mode))

        size = (images.shape[2], images.shape[1])
        chosen = chosen_by(**choices)
        chosen["size"] = full_size(chosen.pop("width") or 0, chosen.pop("height") or 0, size)
        notes: list[str] = []
        with in_words_of_the_graph():
            told = story_of(story, "the story", "1")
            _check(told)
            sources = [None] * len(told.scenes) if mute else sources_of(told, _no_file, None, notes)
            clips = clips_of_story(told, _finder(len(images)), lambda _: size, variant_of, chosen)
        for each in clips:
            notes += notes_on(variant_of(each.settings.mode), each.settings)
        for mode in {each.settings.mode for each in clips}:
            require_encoders(*loading(mode), clip, clip_vision)
        notes = list(dict.fromkeys(notes))
        for note in notes:
            _logger.warning(note)
        graph = GraphBuilder()
        # The link, not the images themselves, by which the host would not know finished scenes again.
        link = cls.hidden.dynprompt.get_node(cls.hidden.unique_id)["inputs"]["images"]

        @cache
        def loader(checkpoint: str, variant: str) -> Any:
            return graph.node(
                "DynamiCrafterCheckpointLoader", checkpoint=checkpoint, variant=variant, weight_dtype=AUTO
            )

        @cache
        def picture(place: int) -> Any:
            return graph.node("ImageFromBatch", image=link, batch_index=place, length=1).out(0)

        last: Any = None
        for place, each in enumerate(clips):
            networks = loader(*loading(each.settings.mode))
            shown = [last.out(1) if one is None else picture(one) for one in each.pictures]
            made = graph.node(
                "DynamiCrafterGenerate",
                model=networks.out(0),
                clip=networks.out(1) if clip is None else clip,
                clip_vision=networks.out(2) if clip_vision is None else clip_vision,
                vae=networks.out(3),
                loop=False,
                **dict(zip(("image", "last_image"), shown, strict=False)),
                **_inputs_of(each.settings),
            )
            before = {} if last is None else {"film": last.out(0)}
            last = graph.node(
                "DynamiCrafterFilmClip",
                images=made.out(0),
                joint=each.joint,
                sound=sources[each.scene - 1] or "",
                continue_from=ends_among(clips, place),
                **before,
            )
        settings = clips[0].settings
        film = graph.node(
            "DynamiCrafterFilm", film=last.out(0), fps=settings.fps, fade=told.fade, seed=settings.seed
        )
        return io.NodeOutput(
            *(film.out(slot) for slot in range(3)),
            expand=graph.finalize(),
            ui={NOTES: notes},
        )


def _check(story: Story) -> None:
    """Raise UsageError for what a story of a graph cannot have."""
    if len(story.scenes) > _MOST_SCENES:
        raise UsageError(
            f"a story has at most {_MOST_SCENES} scenes here, but {len(story.scenes)} were given; split it, or use "
            f"'dynamicrafter story'"
        )
    for settings in (story.settings, *(scene.settings for scene in story.scenes)):
        for name in _NOT_HERE:
            if settings.get(name) is not None:
                raise UsageError(
                    f"a story in a graph has no {name}, but {settings[name]!r} was given; omit it"
                )


def _finder(count: int) -> Callable[[str], int]:
    """From the name of a picture in a story to its place in the batch of ``count`` images."""

    def find(name: str) -> int:
        if not name.isdecimal() or not 1 <= int(name) <= count:
            raise UsageError(
                f"picture must be the number of one of the images, 1 to {count}, but {name[:60]!r} was given; connect "
                f"all images of the story as a batch"
            )
        return int(name) - 1

    return find


def _no_file(name: str) -> Path:
    """The file of a sound; always raises UsageError, as workflows come from strangers."""
    raise UsageError(
        f"sound must be a few words, not the name of a file, but {name[:60]!r} was given; write such as sea, or mute "
        f"the story and add a sound of your own"
    )


def _inputs_of(settings: Settings) -> dict[str, Any]:
    """The inputs of DynamiCrafter Generate for a clip."""
    values: dict[str, Any] = {"motion": OWN[float]}
    for name, parameter in PARAMETERS.items():
        if name not in ("motion", "keys", *_NOT_HERE):
            value = getattr(settings, name)
            values[INPUT_NAMES.get(name, name)] = OWN[parameter.kind] if value is None else value
    parts: dict[str, dict[str, Any]] = {
        "length": {name: values.pop(name) for name in _OF_LENGTH if name in values and name != "cut_still"},
        "techniques": {each.name: values.pop(each.name) for each in of_group("techniques")},
    }
    return {**values, **parts}
