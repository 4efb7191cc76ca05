"""Nodes that join clips to a film with sound."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ..dynamicrafter.director.ambience import AMBIENCES, RATE
from ..dynamicrafter.director.cutting import JOINT_KINDS, Joint, beginning, cut, sharpest_of, tail_start
from ..dynamicrafter.director.soundtrack import SoundSource, film_sound, source_for
from .ambience import notes_on_silence
from .choices import advanced, choice
from .decode import played
from .host.run import intermediate
from .notes import NOTES
from .sockets import CATEGORY, FILM, image, schema
from .words import in_words_of_the_graph


@dataclass(frozen=True, eq=False)
class FilmPart:
    """A clip of a film."""

    frames: Tensor
    """uint8 ``[n, h, w, 3]``."""
    joint: Joint
    source: SoundSource | None
    """Its sound; None is silence."""


def film_outputs() -> list[Any]:
    """Outputs of the nodes that make a film."""
    return [
        io.Video.Output("video", tooltip="The film with its sound, for core Save Video."),
        io.Image.Output("images", tooltip="The frames of the film, as a batch of images."),
        io.Audio.Output("audio", tooltip="The sound of the film in stereo; silence if no clip has any."),
    ]


class DynamiCrafterFilmClip(io.ComfyNode):
    """Adds a clip to a film."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterFilmClip",
            display_name="DynamiCrafter Film Clip",
            category=CATEGORY,
            description="Adds a clip to a film, and outputs the frame from which the next clip can continue. "
            "DynamiCrafter Film joins all of them.",
            search_aliases=["join videos", "concatenate", "append clip", "scene"],
            inputs=[
                image("images", "The frames of the clip, as a batch of images."),
                FILM.Input("film", optional=True, tooltip="The clips before; nothing for the first one."),
                io.Combo.Input(
                    "joint",
                    options=list(JOINT_KINDS),
                    default="cut",
                    tooltip="How the clip follows the one before: cut, cross-fade, or shared, if it begins with the "
                    "last frame of the one before, which is then shown once.",
                ),
                io.String.Input(
                    "sound",
                    default="",
                    tooltip=f"A cue in a few English words, such as {', '.join(AMBIENCES)}; empty for silence.",
                ),
                choice(
                    "continue_from",
                    "The frames after it are dropped.",
                    optional=True,
                    extra_dict=advanced(),
                ),
            ],
            outputs=[
                FILM.Output("film", tooltip="The clips so far, for the next one or for DynamiCrafter Film."),
                io.Image.Output(
                    "last_frame", tooltip="The last frame, from which another clip can continue."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        joint: Joint,
        sound: str,
        film: tuple[FilmPart, ...] = (),
        continue_from: int = 1,
    ) -> io.NodeOutput:
        """Add it; raises ValueError for a clip that does not fit the ones before."""
        if not film and joint != "cut":
            raise ValueError(
                f"the first clip of a film has nothing before it, but joint is {joint}; select cut, or connect film"
            )
        # Truncated, as the host saves images.
        frames = (images[..., :3].cpu().float() * 255).clamp(0, 255).to(torch.uint8)
        size, before = tuple(frames.shape[1:3]), tuple((film[0].frames if film else frames).shape[1:3])
        if size != before:
            raise ValueError(
                f"all clips of a film must have the size of its first one, {before[1]}x{before[0]}, but this one has "
                f"{size[1]}x{size[0]}; set the same width and height"
            )
        start = tail_start(len(frames), continue_from)
        frames = frames[: start + sharpest_of(frames[start:]) + 1]
        source = source_for(sound)
        notes = notes_on_silence(sound) if source is None else []
        last = beginning(frames[-1]).float() / 255
        return io.NodeOutput(
            (*film, FilmPart(frames, joint, source)), last[None], ui={NOTES: notes} if notes else None
        )


class DynamiCrafterFilm(io.ComfyNode):
    """Joins clips to a film."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterFilm",
            display_name="DynamiCrafter Film",
            category=CATEGORY,
            description="Joins the clips of DynamiCrafter Film Clip to one video with sound, without a doubled frame. "
            "Cross-fades are blended in linear light after the colours were matched.",
            search_aliases=["join videos", "concatenate", "cross fade", "soundtrack"],
            inputs=[
                FILM.Input("film", tooltip="The clips, of DynamiCrafter Film Clip."),
                choice("fps", optional=False),
                io.Float.Input(
                    "fade",
                    default=0.5,
                    min=0.05,
                    max=10.0,
                    step=0.05,
                    tooltip="Duration of a cross-fade in seconds, at most half of either clip.",
                ),
                choice("seed", optional=True, extra_dict=advanced()),
                io.Boolean.Input(
                    "preview",
                    default=True,
                    optional=True,
                    tooltip="Play the film on this node when it is finished.",
                    extra_dict=advanced(),
                ),
            ],
            outputs=film_outputs(),
        )

    @classmethod
    def execute(
        cls, film: tuple[FilmPart, ...], fps: float, fade: float, seed: int = 0, preview: bool = True
    ) -> io.NodeOutput:
        """Join them."""
        cutting = cut([part.joint for part in film], [len(part.frames) for part in film], round(fade * fps))

        def read(place: int, first: int, count: int) -> Tensor:
            return film[place].frames[first : first + count]

        frames = intermediate(torch.cat(list(cutting.frames(read))).float() / 255)
        with in_words_of_the_graph():
            sound = film_sound(
                [(part.source, span / fps) for part, span in zip(film, cutting.spans, strict=True)], seed
            )
        samples = (
            torch.zeros(2, round(cutting.total / fps * RATE))
            if sound is None
            else torch.from_numpy(sound.samples)
        )
        audio: dict[str, Any] = {"waveform": samples.float()[None], "sample_rate": RATE}
        video = InputImpl.VideoFromComponents(
            Types.VideoComponents(
                images=frames,
                frame_rate=Fraction(fps).limit_denominator(1001),
                audio=None if sound is None else audio,  # pyright: ignore
            )
        )
        return io.NodeOutput(video, frames, audio, ui=played(frames, fps) if preview else None)
