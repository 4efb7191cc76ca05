"""The node that generates a whole clip, of any length and in one or several pieces."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate
from typing import Any

import torch
from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ..dynamicrafter.api import check_video_length, place_keys
from ..dynamicrafter.errors import Remedy, UsageError
from ..dynamicrafter.model.variants import Variant
from ..dynamicrafter.motion.pieces import (
    Stretch,
    check_one_part,
    evenly,
    faithful,
    in_pieces,
    is_in_pieces,
)
from ..dynamicrafter.parameters import TRAINED_FRAMES
from ..dynamicrafter.pipeline import NO_SOURCE
from ..dynamicrafter.settings import Settings, clip_length
from .choices import advanced, choice, choices_of, missing, require, settings_of, whole_numbers
from .decode import played
from .encode import (
    condition,
    empty_latent,
    fitted,
    fitted_mask,
    shown,
    single,
    texts_of,
    variant_of,
    with_options,
)
from .host.model import TOKENS
from .host.run import PartOfProgress, Progress, intermediate
from .host.sampler import sample_exactly
from .host.towers import check_vision
from .host.vae import HostPictureEncoder, check_vae, decode_exactly
from .notes import notes_on
from .sockets import CATEGORY, LENGTH, TECHNIQUES, image, schema
from .words import in_words_of_the_graph

MASK_TIP = (
    "What may move, of the image's size: 1 (painted) may move, 0 stays as it is in the image, or in source."
)
SOURCE_TIP = "A clip to start from, as a batch of images; see denoise of DynamiCrafter Techniques."
_LAZY = ("image", "last_image", "keyframes", "mask", "source", "length", "techniques")
_NETWORKS = ("model", "clip", "clip_vision", "vae")
_STEPS = 1000
"""Steps of the progress bar of a whole clip."""
_SAMPLING = 0.85
"""The share of a piece's time that is sampling; the rest is decoding."""


DEFAULT_DURATION = str(TRAINED_FRAMES - 1)


def length_input() -> Any:
    """The settings of DynamiCrafter Long Clip."""
    return LENGTH.Input(
        "length", optional=True, tooltip="Length method and faithfulness, of DynamiCrafter Long Clip."
    )


def techniques_input() -> Any:
    """The settings of DynamiCrafter Techniques."""
    return TECHNIQUES.Input(
        "techniques",
        optional=True,
        tooltip="Techniques of DynamiCrafter Techniques; without it, all of them are off.",
    )


def durations_input(**options: Any) -> Any:
    """How far keyframes are apart."""
    return io.String.Input(
        "durations",
        default=DEFAULT_DURATION,
        tooltip="Frames from each image to the next, separated by commas, such as 15,25; a single number applies to "
        f"all gaps. {DEFAULT_DURATION} is the length of the models' training.",
        **options,
    )


def gaps_in(durations: str) -> list[int]:
    """The numbers of :func:`durations_input`; raises ValueError for anything else."""
    return whole_numbers("durations", durations, 1, "use one for each gap, or one for all")


class DynamiCrafterGenerate(io.ComfyNode):
    """Images and a prompt to frames, as the command generates them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and their words."""
        return schema(
            node_id="DynamiCrafterGenerate",
            display_name="DynamiCrafter Generate",
            category=CATEGORY,
            description="Generates a clip from images and a prompt with the networks of a loader: an animation of one "
            "image, an interpolation through two or more, or a loop, of any length. It does what conditioning, "
            "sampler and decode do together, as often as a long clip needs it.",
            search_aliases=["long video", "image to video", "continue video", "keyframes"],
            inputs=[
                io.Model.Input("model", lazy=True, tooltip="MODEL of the loader, optionally with LoRA."),
                io.Clip.Input("clip", lazy=True, tooltip="Text encoder."),
                io.ClipVision.Input("clip_vision", lazy=True, tooltip="Image encoder."),
                io.Vae.Input("vae", lazy=True, tooltip="VAE of the loader, or any SD 1.x/2.x VAE."),
                *[choice(name) for name in ("prompt", "frames", "motion", "seed", "steps", "cfg", "eta")],
                io.Boolean.Input(
                    "loop", default=False, tooltip="Generate a seamless loop of a single image."
                ),
                image("image", "The image to animate; a single image.", optional=True, lazy=True),
                image(
                    "last_image",
                    "The image to end with; the clip interpolates between the two images.",
                    optional=True,
                    lazy=True,
                ),
                image(
                    "keyframes",
                    "All images of an interpolation in order, as a batch, instead of image and last_image.",
                    optional=True,
                    lazy=True,
                ),
                io.Mask.Input("mask", optional=True, lazy=True, tooltip=MASK_TIP),
                image("source", SOURCE_TIP, optional=True, lazy=True),
                length_input(),
                techniques_input(),
                choice("negative", optional=True, extra_dict=advanced()),
                choice("fs"),
                durations_input(optional=True, extra_dict=advanced()),
                choice("cut_still"),
                *[
                    choice(name, optional=True, extra_dict=advanced())
                    for name in ("width", "height", "fit", "fps")
                ],
                *choices_of("sampling", advanced=True, without=("noise_device",)),
                io.Boolean.Input(
                    "preview",
                    default=True,
                    optional=True,
                    tooltip="Play the clip on this node when it is finished.",
                    extra_dict=advanced(),
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The frames, as a batch of images."),
                io.Video.Output("video", tooltip="The clip, for core Save Video."),
            ],
        )

    @classmethod
    def check_lazy_status(cls, **shown: Any) -> list[str]:
        """Reject what is wrong before anything is computed, and the rest before the networks are loaded."""
        require(**shown)
        return missing(shown, _LAZY) or missing(shown, _NETWORKS)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        clip_vision: Any,
        vae: Any,
        loop: bool,
        image: Tensor | None = None,
        last_image: Tensor | None = None,
        keyframes: Tensor | None = None,
        mask: Tensor | None = None,
        source: Tensor | None = None,
        length: dict[str, Any] | None = None,
        techniques: dict[str, Any] | None = None,
        durations: str = DEFAULT_DURATION,
        preview: bool = True,
        **choices: Any,
    ) -> io.NodeOutput:
        """Generate, piece by piece."""
        variant = variant_of(model)
        check_vision(clip_vision, variant)
        check_vae(vae)
        sources = _images(image, last_image, keyframes)
        with in_words_of_the_graph():
            choices |= {**(length or {}), **(techniques or {})}
            chosen = _settings(variant, sources, loop, durations, choices)
            if mask is not None or source is not None or chosen.denoise < 1:
                check_one_part(chosen)
                if source is not None:
                    check_video_length(len(source), chosen)
                elif chosen.mode == "interpolate":
                    raise UsageError(NO_SOURCE, Remedy("name_video"))
        clip_of = _Generation(model, clip, clip_vision, vae, fitted(sources, chosen), chosen)
        fits = None if mask is None else fitted_mask(mask, sources[0], chosen)
        clean = None if source is None else fitted(source[: chosen.frames], chosen)
        frames = intermediate(clip_of.frames(fits, clean))
        video = InputImpl.VideoFromComponents(
            Types.VideoComponents(
                images=frames, frame_rate=Fraction(chosen.fps).limit_denominator(1001), audio=None
            )
        )
        report: dict[str, Any] = dict(clip_of.notes)
        if preview:
            report |= played(frames, chosen.fps).as_dict()
        return io.NodeOutput(frames, video, ui=report)


def _images(image: Tensor | None, last_image: Tensor | None, keyframes: Tensor | None) -> list[Tensor]:
    """The images of a clip in order, ``[h, w, c]``; raises ValueError for none and for two kinds of them."""
    if (image is None) == (keyframes is None) or (image is None and last_image is not None):
        raise ValueError(
            "a clip needs either image, optionally with last_image, or keyframes, but "
            f"{'neither' if image is None and keyframes is None else 'both'} came; connect one of them"
        )
    if keyframes is not None:
        if len(keyframes) < 2:
            raise ValueError(
                "keyframes must be a batch of 2 or more images, but 1 was given; add others with core Batch Images"
            )
        return list(keyframes)
    named = (("image", image), ("last_image", last_image))
    return [single(value, name) for name, value in named if value is not None]


def _settings(
    variant: Variant, images: list[Tensor], loop: bool, durations: str, choices: dict[str, Any]
) -> Settings:
    """The settings of a clip of these images; raises UsageError and ValueError for what does not go together."""
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    if loop and len(images) > 1:
        raise UsageError(f"a loop needs a single image, but {len(images)} were given; disable loop")
    if len(images) == 1:
        return settings_of(variant, "loop" if loop else "animate", sizes[0], **choices)
    if len(images) > 2:
        choices |= _keys(len(images), durations)
        place_keys({"keys": choices["keys"]}, sizes)
    return settings_of(variant, "interpolate", sizes[0], **choices)


def _keys(images: int, durations: str) -> dict[str, Any]:
    """Where the images stand, and the length of the clip; raises ValueError for another number of durations."""
    gaps = gaps_in(durations)
    if len(gaps) == 1:
        gaps *= images - 1
    if len(gaps) != images - 1:
        raise ValueError(
            f"{images} images have {images - 1} gaps, but there are {len(gaps)} durations; use one for each gap, or "
            f"one for all"
        )
    keys = list(accumulate(gaps, initial=0))
    return {"keys": ",".join(map(str, keys)), "frames": keys[-1] + 1}


class _Generation:
    """One run of the node: the networks of the host, the fitted images ``[n, 3, H, W]`` and one random generator."""

    def __init__(
        self, model: Any, clip: Any, clip_vision: Any, vae: Any, pictures: Tensor, settings: Settings
    ) -> None:
        self._model = model
        self._clip = clip
        self._vision = clip_vision
        self._vae = vae
        self._pictures = pictures
        self._settings = settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._progress = Progress(_STEPS)
        self._first_tokens: Tensor | None = None
        self.notes: dict[str, list[str]] = {}
        """The report of the node to the editor."""

    def frames(self, mask: Tensor | None, source: Tensor | None) -> Tensor:
        """All frames ``[t, H, W, 3]`` in [0, 1]; ``mask`` is ``[H, W]``, ``source`` ``[t, 3, H, W]`` in [-1, 1]."""
        settings, pictures = self._settings, self._pictures
        if is_in_pieces(settings):
            parts = in_pieces(self._piece, list(pictures), settings)
        else:
            whole = Stretch(0, 1, settings, tuple(pictures))
            parts = faithful(iter([self._piece(whole, mask, source)]), pictures[0], settings)
        frames = torch.cat([((part + 1) / 2).clamp(0, 1).movedim(1, -1) for part in parts])
        frames = frames[: clip_length(settings)]
        if mask is not None:
            kept = pictures[:1] if source is None else source
            still = torch.stack([shown(picture) for picture in kept[: len(frames)]])
            frames = mask[:, :, None] * frames + (1 - mask[:, :, None]) * still
        return frames

    def _piece(self, piece: Stretch, mask: Tensor | None = None, source: Tensor | None = None) -> Tensor:
        """The frames of one piece, ``[t, 3, H, W]`` around [-1, 1]."""
        settings, pictures = piece.settings, torch.stack(piece.pictures)
        text, unwanted = texts_of(variant_of(self._model), self._clip, settings)
        branches, keys = condition(self._model, self._vae, self._vision, pictures, settings, text, unwanted)
        if self._first_tokens is None:
            self._first_tokens = branches["full"][0][1][TOKENS]
            self.notes = notes_on(self._model, self._vae, settings.prompt, pictures, keys)
        if piece.anchored:
            for name in ("full", "image_only"):
                branches[name] = with_options(branches[name], {TOKENS: self._first_tokens})
        if settings.image_cfg is None:
            del branches["image_only"]
        start, share = _STEPS * piece.index / piece.total, _STEPS / piece.total
        sampled = sample_exactly(
            self._model,
            branches,
            empty_latent(keys, settings) if source is None else self._latents_of(source),
            settings,
            mask=None if mask is None else mask[None],
            generator=self._generator,
            progress=PartOfProgress(self._progress, start, share * _SAMPLING),
        )
        if settings.length_method == "pick":
            sampled = sampled[evenly(settings.frames)]
        shows = pictures if len(pictures) > 1 else pictures.repeat(2, 1, 1, 1)
        decoding = PartOfProgress(self._progress, start + share * _SAMPLING, share * (1 - _SAMPLING))
        decoded = decode_exactly(self._vae, sampled, shows, progress=decoding)
        return decoded.movedim(-1, 1) * 2 - 1

    def _latents_of(self, source: Tensor) -> Tensor:
        """The unscaled latents ``[t, 4, h, w]`` of a clip's frames, each the mean of what the encoder finds."""
        encoder = HostPictureEncoder(self._vae)
        return torch.cat([encoder.encode(frame[None]).mean for frame in source]).float()
