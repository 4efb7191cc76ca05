"""The node that makes ambient sound."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..dynamicrafter.director.ambience import AMBIENCES, RATE
from ..dynamicrafter.director.loudness import levelled
from ..dynamicrafter.director.soundtrack import sound_for
from ..dynamicrafter.model.variants import Preset
from .choices import choice
from .notes import NOTES
from .sockets import CATEGORY, image, schema
from .words import in_words_of_the_graph

_LONGEST = 3600.0


def notes_on_silence(cue: str) -> list[str]:
    """What a node says of a cue that fits no sound; nothing of an empty one."""
    known = ", ".join(AMBIENCES)
    return [f"There is no sound for {cue.strip()[:60]!r}; the sounds are {known}."] if cue.strip() else []


class DynamiCrafterAmbience(io.ComfyNode):
    """Ambient sound, made by arithmetic."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterAmbience",
            display_name="DynamiCrafter Ambience",
            category=CATEGORY,
            description="Makes ambient sound of the length of a clip, with nothing downloaded: "
            f"{', '.join(AMBIENCES)}. A cue that fits none of them is silence.",
            search_aliases=["sound", "audio", "noise", "rain", "sea", "wind"],
            inputs=[
                io.String.Input(
                    "sound",
                    default="sea",
                    tooltip=f"A cue in a few English words, such as {', '.join(AMBIENCES)}, or that of a plan.",
                ),
                io.Float.Input(
                    "seconds",
                    default=2.0,
                    min=0.1,
                    max=_LONGEST,
                    step=0.1,
                    tooltip="Duration. Ignored if images is connected.",
                ),
                choice("seed"),
                image("images", "The frames of the clip, which set the duration.", optional=True),
                choice("fps", "The duration of images depends on it.", optional=True),
            ],
            outputs=[io.Audio.Output("audio", tooltip="The sound in stereo, for core Create Video.")],
        )

    @classmethod
    def execute(
        cls, sound: str, seconds: float, seed: int, images: Tensor | None = None, fps: float = Preset.fps
    ) -> io.NodeOutput:
        """Make it; a note on the node says which cue fits no sound."""
        if images is not None:
            seconds = len(images) / fps
        with in_words_of_the_graph():
            found = sound_for(sound, seconds, seed)
            samples = None if found is None else torch.from_numpy(levelled(found))
        notes: dict[str, Any] = {NOTES: []}
        if samples is None:
            samples = torch.zeros(2, max(1, round(seconds * RATE)))
            notes[NOTES] += notes_on_silence(sound)
        return io.NodeOutput({"waveform": samples.float()[None], "sample_rate": RATE}, ui=notes)
