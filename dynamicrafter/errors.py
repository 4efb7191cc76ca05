"""The errors a person can act on: each message is one sentence with what was wanted, what came and what to do.

An error holds the facts. Where what to do depends on how the package is used, it holds a :class:`Remedy`, which the
command, Python and the nodes each say in their own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RemedyKind = Literal[
    "check_model",
    "choose_model",
    "download",
    "drop_variant",
    "fetch",
    "lower_cfg",
    "name_encoder",
    "name_i3d",
    "name_towers",
    "name_variant",
    "skip_learned",
    "widen_dtype",
]


@dataclass(frozen=True)
class Remedy:
    """What to do about an error."""

    kind: RemedyKind
    about: tuple[str, ...] = ("",)
    """The names that it is about: of variants to choose from, encoders to give, a release, a file, a size."""


Words = Mapping[RemedyKind, str]
"""How a front end says each remedy; ``{}`` is one name of those it is about, and several are joined by "and"."""

PYTHON: Words = {
    "check_model": "check the path, or give a name of dynamicrafter.weights.catalogue.RELEASES",
    "choose_model": "dynamicrafter.weights.catalogue.RELEASES lists the models and what each is for",
    "download": "fetch them with dynamicrafter.weights.download.download(find({!r}))",
    "drop_variant": "leave variant out or choose another file",
    "fetch": "pass fetch=True to let the package download them ({})",
    "lower_cfg": "pass a smaller cfg, or use a checkpoint that is not damaged",
    "name_encoder": "pass {}_encoder=...",
    "name_i3d": "pass i3d=... or put it at {}",
    "name_towers": "fetch them with dynamicrafter.weights.download.download(find({!r})) or pass towers=...",
    "name_variant": "pass variant=...",
    "skip_learned": "remove its weights and fetch them again",
    "widen_dtype": 'load the model with dtype="float32" or "bfloat16"',
}


class DynamiCrafterError(Exception):
    """Base of every error this package raises on purpose; the message is meant to be shown as it is."""

    def __init__(self, facts: str = "", remedy: Remedy | None = None) -> None:
        super().__init__(facts)
        self.facts = facts
        self.remedy = remedy

    def said(self, words: Words) -> str:
        """The message in the words of a front end, or in Python's where it has none for the remedy."""
        if self.remedy is None:
            return self.facts
        text = words.get(self.remedy.kind, PYTHON[self.remedy.kind])
        return f"{self.facts}; {' and '.join(dict.fromkeys(text.format(name) for name in self.remedy.about))}"

    def __str__(self) -> str:
        """The message for a caller in Python."""
        return self.said(PYTHON)


class UsageError(DynamiCrafterError):
    """The request itself is wrong (a size, a step count, an unknown name); the command line exits with 2."""


class PictureError(DynamiCrafterError):
    """A picture could not be read or cannot be used."""


class CheckpointError(DynamiCrafterError):
    """A weights file is unreadable, of another architecture, or does not hold what it must."""


class DownloadError(DynamiCrafterError):
    """Weights could not be fetched; nothing that looks finished was left behind."""


class ClipError(DynamiCrafterError):
    """A clip could not be written or read back."""


class Cancelled(DynamiCrafterError):
    """Raised by a progress callback to stop the work within one step."""
