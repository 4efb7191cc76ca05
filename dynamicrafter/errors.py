"""The errors a user can act on: each message is one sentence with what was expected, what was found and what to do.

An error contains the facts. If what to do depends on how the package is used, it also contains a :class:`Remedy`,
which the command, Python and the nodes each phrase in their own terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RemedyKind = Literal[
    "check_model",
    "choose_model",
    "describe_motion",
    "download",
    "drop_variant",
    "export",
    "export_person",
    "fetch",
    "find_poses",
    "lower_cfg",
    "measure_latents",
    "name_backend",
    "name_between",
    "name_encoder",
    "name_i3d",
    "name_lora",
    "name_mask",
    "name_model",
    "name_output",
    "name_picture",
    "name_poses",
    "name_reference",
    "name_towers",
    "name_variant",
    "name_video",
    "place_beside",
    "skip_learned",
    "widen_dtype",
]


@dataclass(frozen=True)
class Remedy:
    """What to do about an error."""

    kind: RemedyKind
    about: tuple[str, ...] = ("",)
    """The names that it refers to: variants to choose from, encoders to pass, a release, a file, a size."""


Words = Mapping[RemedyKind, str]
"""How a front end phrases each remedy; ``{}`` is one of the names it refers to, and several are joined by "and"."""

PYTHON: Words = {
    "check_model": "check the path, or pass a name from dynamicrafter.weights.catalogue.RELEASES",
    "choose_model": "dynamicrafter.weights.catalogue.RELEASES lists the models and their uses",
    "describe_motion": "choose another model, or describe the motion in a prompt",
    "download": "download them with dynamicrafter.weights.download.download(find({!r}))",
    "drop_variant": "omit variant or choose another file",
    "export": "export it with dynamicrafter.api.export_model({!r})",
    "export_person": "export it with dynamicrafter.animate_anyone.exporting.export_person_model({!r})",
    "fetch": "pass fetch=True to let the package download them ({})",
    "find_poses": "pass keypoints, or find=... for a clip of a person",
    "lower_cfg": "pass a lower cfg, or use a checkpoint that is not damaged",
    "measure_latents": "measure them with dynamicrafter.evaluation.latents.latent_statistics",
    "name_backend": 'pass backend="openvino"',
    "name_between": "pass between_model=... as well, such as 512_interp",
    "name_encoder": "pass {}_encoder=...",
    "name_i3d": "pass i3d=... or place it at {}",
    "name_lora": "pass the model and its adapters explicitly",
    "name_mask": "pass the path of the mask",
    "name_model": "pass the model to use",
    "name_output": "choose another name for the clip",
    "name_picture": "pass the path of every image",
    "name_poses": "pass the path of the poses",
    "name_reference": "pass the path of the keypoints",
    "name_towers": "download them with dynamicrafter.weights.download.download(find({!r})) or pass towers=...",
    "name_variant": "pass variant=...",
    "name_video": "pass video=...",
    "place_beside": "put the {} next to the clip",
    "skip_learned": "delete its weights and download them again",
    "widen_dtype": 'load the model with dtype="float32" or "bfloat16"',
}


class DynamiCrafterError(Exception):
    """Base of every error that this package raises intentionally; the message can be shown to the user as is."""

    def __init__(self, facts: str = "", remedy: Remedy | None = None) -> None:
        super().__init__(facts)
        self.facts = facts
        self.remedy = remedy

    def said(self, words: Words) -> str:
        """The message as a front end phrases it, or as for Python if the front end has no text for the remedy."""
        if self.remedy is None:
            return self.facts
        text = words.get(self.remedy.kind, PYTHON[self.remedy.kind])
        return f"{self.facts}; {' and '.join(dict.fromkeys(text.format(name) for name in self.remedy.about))}"

    def __str__(self) -> str:
        """The message for a caller in Python."""
        return self.said(PYTHON)


class UsageError(DynamiCrafterError):
    """The request itself is invalid (a size, a step count, an unknown name); the command line exits with 2."""


class PictureError(DynamiCrafterError):
    """An image could not be read or cannot be used."""


class CheckpointError(DynamiCrafterError):
    """A weights file is unreadable, of another architecture, or incomplete."""


class DownloadError(DynamiCrafterError):
    """Weights could not be downloaded; no file that looks complete was left behind."""


class ClipError(DynamiCrafterError):
    """A clip could not be written or read back."""


class LanguageModelError(DynamiCrafterError):
    """A language model did not answer, or not with what was asked for; its key is never part of the message."""


class Cancelled(DynamiCrafterError):
    """Raised by a progress callback to stop the work within one step."""
