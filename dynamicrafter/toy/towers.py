"""Pretrains the small text and image encoders: each learns to classify the contents of a scene and is then frozen.

The outputs of an untrained text encoder hardly differ between captions at the padding positions, which are most of what
the network attends to; a network trained with such an encoder never learns to follow prompts. A minute of pretraining
is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.configs import TextConfig, VisionConfig
from ..model.encoders import (
    CLIPImageEncoder,
    CLIPTextEncoder,
    tokenize,
)
from ..training.trainer import Batch, Draw
from .world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scenes, captions, draw_scenes, sample_scenes

_NOTHING = -100
"""Label that the loss ignores."""
_COLOUR_MOTION = tuple(MOTIONS).index("colour")


def vocabulary(tokenized: Tensor) -> Tensor:
    """The ids that occur in ``tokenized``, ascending; an encoder is trained with an embedding table of only these."""
    return cast(Tensor, cast(Any, torch).unique(tokenized))


def toy_vocabulary() -> Tensor:
    """Ids of all words in captions of the toy world, and of start, end and padding."""
    phrases = [phrase.replace("{}", "") for wordings in MOTIONS.values() for phrase in wordings]
    return vocabulary(tokenize([*phrases, *COLOURS, *SHAPES, "a the and", ""]))


class CompactText(nn.Module):
    """A text encoder with a small embedding table that can be expanded to the full vocabulary."""

    def __init__(self, config: TextConfig, ids: Tensor) -> None:
        super().__init__()
        self._config = config
        self.register_buffer("ids", ids)
        small = TextConfig(config.width, config.layers, config.heads, vocabulary=len(ids))
        self.tower = CLIPTextEncoder(small, torch.float32, "cpu")
        nn.init.normal_(cast(Any, self.tower).token_embedding.weight, std=0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids of the full vocabulary ``[b, 77]`` to hidden states ``[b, 77, width]``."""
        return self.tower.encode(torch.searchsorted(cast(Tensor, self.ids), tokens))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to hidden states ``[b, 77, width]``; every word must be in the table."""
        return self(tokenize(prompts))

    def full_weights(self) -> dict[str, Tensor]:
        """Weights of the encoder with the full vocabulary; embeddings of words not seen in training are zero."""
        weights = {name: value.detach().clone() for name, value in self.tower.state_dict().items()}
        table = torch.zeros(self._config.vocabulary, self._config.width)
        table[cast(Tensor, self.ids)] = weights["token_embedding.weight"]
        return {**weights, "token_embedding.weight": table}


def _labels(scenes: Scenes) -> dict[str, Tensor]:
    """Labels of each of the two shapes that a caption describes, ``[n, 2]`` each."""
    gone = ~scenes.present
    same = scenes.motion != _COLOUR_MOTION
    return {
        "motion": scenes.motion.masked_fill(gone, len(MOTIONS)),
        "colour": scenes.colour.masked_fill(gone, _NOTHING),
        "shape": scenes.shape.masked_fill(gone, _NOTHING),
        "target": scenes.target.masked_fill(gone | same, _NOTHING),
    }


_HEADS = {"motion": len(MOTIONS) + 1, "colour": len(COLOURS), "shape": len(SHAPES), "target": len(COLOURS)}


class TextLoss(nn.Module):
    """Linear heads that classify the scene at every position from the end token on."""

    def __init__(self, text: CompactText, width: int) -> None:
        super().__init__()
        self.text = text
        self.heads = nn.ModuleDict({name: nn.Linear(width, 2 * count) for name, count in _HEADS.items()})

    def forward(self, tokens: Tensor, **labels: Tensor) -> Tensor:
        """Mean cross entropy; ``labels`` are ``[b, 2]`` each."""
        states = self.text(tokens)
        ended = torch.arange(tokens.shape[1]) >= tokens.argmax(1, keepdim=True)
        losses: list[Tensor] = []
        for name, label in labels.items():
            logits = self.heads[name](states).unflatten(-1, (2, -1))
            expected = label[:, None].expand(-1, states.shape[1], -1)
            expected = torch.where(ended[..., None], expected, _NOTHING)
            total = F.cross_entropy(
                logits.flatten(0, 2), expected.flatten(), ignore_index=_NOTHING, reduction="sum"
            )
            losses.append(total / (expected != _NOTHING).sum().clamp(min=1))
        return torch.stack(losses).sum()


def caption_draw(batch: int) -> Draw:
    """Tokenized captions of random scenes, with their labels."""

    def draw(generator: torch.Generator) -> Batch:
        scenes = sample_scenes(batch, generator, pairs=0.25)
        return {"tokens": tokenize(captions(scenes, generator)), **_labels(scenes)}

    return draw


class VisionLoss(nn.Module):
    """Linear heads that predict shape, colour, position, size and background from the mean of the image tokens."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.tower = CLIPImageEncoder(config, torch.float32, "cpu")
        self.shape = nn.Linear(config.width, len(SHAPES))
        self.colour = nn.Linear(config.width, len(COLOURS))
        self.background = nn.Linear(config.width, len(BACKGROUNDS))
        self.place = nn.Linear(config.width, 3)

    def forward(
        self, pictures: Tensor, shape: Tensor, colour: Tensor, background: Tensor, place: Tensor
    ) -> Tensor:
        """``pictures`` ``[b, 3, H, W]`` in [-1, 1], ``place`` ``[b, 3]`` around zero; a scalar loss."""
        mean = self.tower(pictures).mean(1)
        entropies = (
            F.cross_entropy(self.shape(mean), shape),
            F.cross_entropy(self.colour(mean), colour),
            F.cross_entropy(self.background(mean), background),
        )
        return torch.stack(entropies).sum() + F.mse_loss(self.place(mean), place)


def picture_draw(batch: int) -> Draw:
    """First images of random scenes with one shape, and their labels."""

    def draw(generator: torch.Generator) -> Batch:
        scenes = sample_scenes(batch, generator)
        place = torch.stack(
            [(scenes.x[:, 0] - 32) / 5, (scenes.y[:, 0] - 32) / 5, (scenes.radius[:, 0] - 11) / 2], dim=1
        )
        return {
            "pictures": draw_scenes(scenes, torch.zeros(batch, 1))[:, 0],
            "shape": scenes.shape[:, 0],
            "colour": scenes.colour[:, 0],
            "background": scenes.background,
            "place": place,
        }

    return draw
