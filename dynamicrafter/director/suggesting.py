"""What could move in an image, for the model that is to animate it and without a language model."""

from __future__ import annotations

from pathlib import Path

import torch

from ..api import ModelFiles
from ..errors import Remedy, UsageError
from ..evaluation.clip_score import find_towers, load_scorer
from ..media.pictures import Picture, normalise
from ..model.variants import TINY
from ..weights.catalogue import TOWERS
from .plan import ClipPlan
from .suggestions import BANK, Sight, read_bank, suggest
from .toy_sight import suggest_toy


def suggested_plans(
    files: ModelFiles,
    picture: Picture,
    towers: Path | None = None,
    phrases: Path | None = None,
    sight: Sight | None = None,
) -> list[ClipPlan]:
    """Plans for an image, the one that fits best first: of the toy world for the built-in model, else by CLIP.

    ``towers`` is a file with the complete CLIP encoders, by default one that is on this machine; ``sight`` is used
    instead of them if they are loaded already. ``phrases`` is a bank instead of the included one. Raises UsageError if
    there is nothing to suggest, or nothing to see it with.
    """
    if files.asked == TINY.name:
        found = suggest_toy(normalise(picture))
        if not found:
            raise UsageError(
                "the built-in model knows coloured shapes only, and the image shows none",
                Remedy("describe_motion"),
            )
        return [one.plan for one in found]
    if sight is None:
        found_towers = find_towers(files, towers)
        if found_towers is None:
            raise UsageError(
                "suggestions without a language model need the complete CLIP encoders, which are not here",
                Remedy("name_towers", (TOWERS,)),
            )
        sight = load_scorer(found_towers)
    # The picture as CLIP is trained on it: its size does not matter, its sides are made equal.
    with torch.inference_mode():
        return [one.plan for one in suggest(normalise(picture), sight, read_bank(phrases or BANK))]
