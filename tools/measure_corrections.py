"""Measure on the built-in model how often corrections rescue a clip whose first attempt was spoilt.

Usage, in the top folder: ``python -m tools.measure_corrections ROWS.jsonl [--prompts 64] [--develop]``.

Each prompt of the toy world is generated with one fault, drawn by its number: fs, cfg, steps, the seed, or a prompt
of another motion. Draws are repeated until the fault spoils the clip: it does not do as told, and without the fault
it does (for the seed: with most other seeds), as judged by the gauges of the toy world, which know the true clip. The
policy is told the prompt and how far things should move; neither the fault nor the model's defaults nor the gauges'
verdict. ``--develop`` uses other prompts, for work on the policy. A row is written when its prompt is finished; a
repeated command continues.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamicrafter.api import load
from dynamicrafter.director.correcting import Aim, aim_of, correct
from dynamicrafter.evaluation.figures import measure_clip, psnr
from dynamicrafter.model.variants import TINY
from dynamicrafter.pipeline import KeyPictures, Model, generate
from dynamicrafter.settings import Settings, make_settings
from dynamicrafter.toy import world
from dynamicrafter.toy.behaviour import shown
from dynamicrafter.toy.gauges import (
    both_as_told,
    directions,
    grows,
    same_subject,
    shrinks,
    stands_still,
    track,
    travelled,
)
from dynamicrafter.toy.world import DIRECTIONS, Scenes, captions, make_clips, sample_scenes, with_motion

KINDS = ("fs", "cfg", "prompt", "steps", "seed")
MOTIONS = (*DIRECTIONS, "grow", "shrink", "still")
FIRST_FRAME = 34.0
"""PSNR in dB to the image below which a clip does not begin with it; first frames of the toy world reach 34.4 to 48."""
DISTANCE = (0.6, 1.6)
"""Least and greatest distance of a subject, as shares of the true one."""
SCENES, SEEDS = 8, 8
"""Scenes that are tried until a fault spoils one, and seeds that are tried for each."""
FIRST, DEVELOPED = 7_000, 1_000
"""Numbers of the first prompt that is measured, and of the first with which the policy was made."""


@dataclass(frozen=True)
class Case:
    """A scene, what is to happen in it, the settings that spoil it, and the same without the fault."""

    scene: Scenes
    settings: Settings
    faultless: Settings
    aim: Aim
    fault: str


def draw(kind: str, dice: random.Random) -> Case:
    """A scene with a fault of this kind."""
    generator = torch.Generator().manual_seed(dice.getrandbits(40))
    # A single subject never fails by its seed; of two at once, some do.
    pairs = kind == "seed"
    motions = DIRECTIONS if pairs else (dice.choice(MOTIONS),)
    scene = sample_scenes(1, generator, "held_out", motions=motions, fs=(8, 24), pairs=float(pairs))
    (prompt,) = captions(scene, generator)
    way = None
    if motions[0] in DIRECTIONS and not pairs:
        share = float(travelled(track(make_clips(scene, 16), scene))) / 64
        way = (0.8 * share, 1.25 * share)
    faultless = make_settings(TINY, "animate", prompt=prompt, fs=int(scene.fs), seed=dice.getrandbits(32))
    settings, fault = faultless, ""
    if kind == "fs":
        settings = replace(settings, fs=round(10 ** dice.uniform(0, 3)))
        fault = f"fs {settings.fs} instead of {int(scene.fs)}"
    elif kind == "cfg":
        cfg = dice.uniform(0, 0.8) if dice.random() < 0.5 else 12 * 5 ** dice.random()
        settings = replace(settings, cfg=round(cfg, 1))
        fault = f"cfg {settings.cfg}"
    elif kind == "steps":
        settings = replace(settings, steps=dice.choice((1, 2, 3)))
        fault = f"steps {settings.steps}"
    elif kind == "prompt":
        other = dice.choice([motion for motion in MOTIONS if motion not in motions])
        settings = replace(settings, prompt=captions(with_motion(scene, other), generator)[0])
        fault = settings.prompt
    return Case(scene, settings, faultless, aim_of(prompt, way), fault)


def generated(model: Model, scene: Scenes, *settings: Settings) -> Tensor:
    """Clips ``[n, t, h, w, 3]``, uint8, from the same scene."""
    return generate(model, KeyPictures(shown(scene).expand(len(settings), -1, -1, -1)), settings)


def true_frames(scene: Scenes) -> Tensor:
    """The clip as it should be, uint8 ``[t, h, w, 3]``."""
    return ((make_clips(scene, 16)[0] + 1) * 127.5).round().byte().movedim(1, -1)


def as_told(frames: Tensor, scene: Scenes) -> bool:
    """Whether a clip, uint8 ``[t, h, w, 3]``, does what the scene's own motions say."""
    clip = frames.movedim(-1, 1)[None].float() / 127.5 - 1
    if float(psnr(clip[0, :1], shown(scene))) < FIRST_FRAME:
        return False
    if bool(scene.present[0, 1]):
        return bool(both_as_told(clip, scene)[0])
    motion = tuple(world.MOTIONS)[int(scene.motion[0, 0])]
    found = track(clip, scene)
    if motion in ("grow", "shrink"):
        return bool((grows if motion == "grow" else shrinks)(clip, scene)[0])
    if motion == "still":
        return bool(stands_still(found)[0])
    true = float(travelled(track(make_clips(scene, clip.shape[1]), scene)))
    share = float(travelled(found)) / true
    right = directions(found)[0] == motion and DISTANCE[0] <= share <= DISTANCE[1]
    return right and same_subject(clip, scene) == (1.0, 1.0)


def spoilt(model: Model, number: int) -> tuple[str, Case]:
    """The kind and the case of a prompt, whose clip does not do as told."""
    dice = random.Random(number)
    while True:
        kind = dice.choice(KINDS)
        for _ in range(SCENES):
            case = draw(kind, dice)
            if not as_told(true_frames(case.scene), case.scene):
                # Two subjects that pass through each other cannot be told apart.
                continue
            tried = [case.settings, case.faultless]
            if kind == "seed":
                tried = [replace(case.settings, seed=dice.getrandbits(32)) for _ in range(SEEDS)]
            # One by one, as clips of a batch may not differ in cfg or steps.
            verdicts = [as_told(generated(model, case.scene, chosen)[0], case.scene) for chosen in tried]
            if kind == "seed":
                spoils = not all(verdicts) and sum(verdicts) >= SEEDS / 2
            else:
                spoils = verdicts == [False, True]
            if spoils:
                chosen = tried[verdicts.index(False)]
                return kind, replace(case, settings=chosen, fault=case.fault or f"seed {chosen.seed}")


def measured(model: Model, number: int) -> dict[str, Any]:
    """The row of a prompt."""
    kind, case = spoilt(model, number)
    picture = shown(case.scene)[0]

    def measure(frames: Tensor, _: Settings) -> Mapping[str, float]:
        return measure_clip(frames.movedim(-1, 1).float() / 127.5 - 1, picture)

    attempts = list(
        correct(
            lambda chosen: generated(model, case.scene, chosen)[0],
            measure,
            case.settings,
            case.aim,
            model.variant,
        )
    )
    # Judged when everything is over, so that nothing of it can reach the policy.
    verdicts = [as_told(attempt.frames, case.scene) for attempt in attempts]
    kept = max(index for index, attempt in enumerate(attempts) if attempt.best)
    return {
        "number": number,
        "kind": kind,
        "fault": case.fault,
        "prompt": case.aim.prompt,
        "told": verdicts[kept],
        "after": [
            verdicts[max(i for i in range(min(count, len(attempts) - 1) + 1) if attempts[i].best)]
            for count in range(4)
        ],
        "attempts": [
            {
                "change": attempt.change and f"{attempt.change.lever} {attempt.change.value}",
                "why": attempt.change and attempt.change.why,
                "score": round(attempt.score, 1),
                "short": {name: round(size, 2) for name, size in attempt.short.items() if size > 0},
                "told": verdict,
            }
            for attempt, verdict in zip(attempts, verdicts, strict=True)
        ],
    }


def main() -> None:
    """Measure the prompts that the file lacks and print the shares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--develop", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    first = DEVELOPED if given.develop else FIRST
    rows = [json.loads(line) for line in given.rows.read_text().splitlines()] if given.rows.exists() else []
    done = {row["number"] for row in rows}
    model = load("tiny", device="cpu")
    for number in range(first, first + given.prompts):
        if number in done:
            continue
        rows.append(measured(model, number))
        with given.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(number, rows[-1]["kind"], rows[-1]["fault"], rows[-1]["after"], flush=True)
    print("| fault | prompts | first | 1 round | 2 rounds | 3 rounds |\n|---|---|---|---|---|---|")
    for kind in (*KINDS, "all"):
        some = [row for row in rows if kind in ("all", row["kind"])]
        shares = [sum(row["after"][count] for row in some) for count in range(4)]
        print(f"| {kind} | {len(some)} | {' | '.join(map(str, shares))} |")


if __name__ == "__main__":
    main()
