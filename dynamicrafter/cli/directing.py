"""The commands of the director: direct, language-model."""

from __future__ import annotations

import asyncio
import getpass
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from ..api import ModelFiles, variant_of
from ..director.correcting import check_rounds
from ..director.plan import ClipPlan, PlanError, clip_plan
from ..director.profiles import (
    Profile,
    agree_to_pictures,
    find_profile,
    profiles_file,
    read_profiles,
    remove_profile,
    write_profile,
)
from ..director.proposing import propose
from ..director.shot_list import length_for
from ..director.soundtrack import SoundSource, film_sound, source_for
from ..director.suggesting import suggested_plans
from ..errors import Cancelled, LanguageModelError, UsageError
from ..media.pictures import Picture, read_picture
from ..model.variants import Mode, Variant
from ..parameters import PARAMETERS
from ..settings import clip_length
from ..shots import make
from . import clips
from .correcting import corrected
from .streams import STANDARD, Streams
from .words import WORDS

_FIELDS = ("subject", "motion_prompt", "camera", "motion", "mode", "negative_prompt", "seconds", "sound")
"""What is shown of a plan, in this order, and may be changed."""


def run(given: Namespace, written: list[str]) -> object:
    """Run ``direct`` and return what ``--json`` prints; the finished clip is appended to ``written``."""
    if given.picture == STANDARD:
        raise UsageError("the image is needed twice, which standard input is not; save it to a file")
    check_rounds(given.rounds)
    files = clips.model_files(given)
    variant = variant_of(files)
    picture = read_picture(given.picture)
    notes = _Notes(given.json)
    plans = _plans(given, files, picture, notes)
    asked = sys.stdin.isatty() and not (given.yes or given.json or given.dry_run)
    out = sys.stderr if given.output == STANDARD else sys.stdout
    plan = _chosen(plans, out) if asked else plans[0]
    if not given.json and not asked:
        _show(plans[:1], out)
    if given.dry_run:
        return {"plans": [asdict(one) for one in plans], "notes": notes}
    mode = _mode(plan, variant)
    if mode != plan.mode:
        needs = "two images" if plan.mode == "interpolate" else f"another model than {variant.name}"
        notes.append(f"the clip is not made as the plan's mode {plan.mode}, which needs {needs}")
    told: dict[str, Any] = {}
    maker = make if given.rounds == 0 else corrected(given, plan, files, out, told)
    source = _sound_source(given, plan, notes)
    with Streams() as streams:
        told |= clips.clips_of(
            mode,
            _with_plan(given, plan, mode, variant),
            written,
            streams,
            maker,
            lambda settings: film_sound([(source, clip_length(settings) / settings.fps)], settings.seed),
        )
    return {"plan": asdict(plan), **told, "notes": [*notes, *told["notes"]]}


class _Notes(list[str]):
    """Notes that are printed when they are added, unless they are part of JSON."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self._hidden = hidden

    def append(self, note: str) -> None:
        super().append(note)
        if not self._hidden:
            print(f"note: {note}\n", end="", file=sys.stderr)


def _plans(given: Namespace, files: ModelFiles, picture: Picture, notes: list[str]) -> list[ClipPlan]:
    """What a language model proposes, or the suggestions if there is none or it fails."""
    failed: LanguageModelError | None = None
    if given.llm:
        profile = _agreed(find_profile(given.llm), given)
        try:
            return [asyncio.run(propose(profile, [picture], given.idea))]
        except LanguageModelError as problem:
            failed = problem
    try:
        plans = suggested_plans(files, picture, given.towers, given.phrases)
    except UsageError as problem:
        if failed is None:
            raise
        raise failed from problem
    if failed is not None:
        notes.append(f"{failed.said(WORDS)}; these are suggestions made without it")
    return plans


def _agreed(profile: Profile, given: Namespace) -> Profile:
    """The profile, after the person agreed to its host if there is a person to ask."""
    if profile.is_local or profile.pictures or given.yes or given.json or not sys.stdin.isatty():
        return profile
    print(
        f"The picture will be sent to {profile.host}, now and in the future. Agree? [y/N] ",
        end="",
        file=sys.stderr,
    )
    sys.stderr.flush()
    return agree_to_pictures(profile.name) if _answer().lower() in ("y", "yes") else profile


def _mode(plan: ClipPlan, variant: Variant) -> Mode:
    """The plan's mode if one picture and the model allow it."""
    return "loop" if plan.mode == "loop" and "loop" in variant.modes else "animate"


def _sound_source(given: Namespace, plan: ClipPlan, notes: list[str]) -> SoundSource | None:
    """What the clip sounds like; None for silence."""
    if given.mute or not plan.sound:
        return None
    source = source_for(plan.sound)
    if source is None:
        notes.append(f"the clip has no sound, because none fits {plan.sound!r}")
        return None
    return source


def _with_plan(given: Namespace, plan: ClipPlan, mode: Mode, variant: Variant) -> Namespace:
    """The arguments with what the plan says, where they say nothing themselves."""
    chosen = Namespace(**vars(given))
    chosen.pictures = [given.picture]
    chosen.prompt = plan.prompt
    if given.fs is None and given.motion is None:
        chosen.motion = plan.motion
    if not given.negative:
        chosen.negative = plan.negative_prompt
    preset = variant.preset
    frames = round(plan.seconds * (preset.fps if given.fps is None else given.fps))
    if given.frames is None and frames != preset.frames:
        chosen.frames, method = length_for(mode, frames, variant)
        if given.length_method == PARAMETERS["length_method"].default:
            chosen.length_method = method
    return chosen


def _show(plans: Sequence[ClipPlan], out: Any) -> None:
    for number, plan in enumerate(plans, 1):
        count = f"{number}. " if len(plans) > 1 else ""
        print(f"{count}{plan.prompt}  ({plan.why})" if plan.why else f"{count}{plan.prompt}", file=out)
    if len(plans) == 1:
        for name in _FIELDS:
            print(f"  {name}: {getattr(plans[0], name)}", file=out)


def _chosen(plans: Sequence[ClipPlan], out: Any) -> ClipPlan:
    """The plan as the person chose and changed it; raises Cancelled if they leave."""
    plan = plans[0]
    _show(plans, out)
    if len(plans) > 1:
        _show([plan], out)
    while True:
        numbers = f"1-{len(plans)} for another, " if len(plans) > 1 else ""
        print(
            f"Enter to generate it, {numbers}FIELD=VALUE to change it, q to leave: ",
            end="",
            file=out,
            flush=True,
        )
        words = _answer()
        if not words:
            return plan
        if words == "q":
            raise Cancelled("nothing was generated")
        if words.isdecimal() and 1 <= int(words) <= len(plans):
            plan = plans[int(words) - 1]
        else:
            name, equals, value = (part.strip() for part in words.partition("="))
            if not equals or name not in _FIELDS:
                print(f"the fields are {', '.join(_FIELDS)}", file=out)
                continue
            try:
                plan = _changed(plan, name, value)
            except PlanError as problem:
                print(problem, file=out)
                continue
        _show([plan], out)


def _changed(plan: ClipPlan, name: str, text: str) -> ClipPlan:
    value: object = text
    if isinstance(getattr(plan, name), float):
        try:
            value = float(text)
        except ValueError:
            raise PlanError(f"{name}: a number is needed") from None
    return clip_plan({**asdict(plan), name: value})


def _answer() -> str:
    line = sys.stdin.readline()
    # At the end of the input nobody answers any more.
    return line.strip() if line else "q"


def run_language_model(given: Namespace) -> dict[str, Any]:
    """Run ``language-model`` and return what ``--json`` prints."""
    if given.action == "add":
        old = read_profiles().get(given.name)
        key = "" if given.key_variable or given.no_key else _key()
        profile = Profile(
            given.name,
            given.url,
            given.named,
            key,
            given.key_variable or "",
            given.proxy or "",
            given.pictures,
        )
        if old is not None and old.host == profile.host and old.pictures:
            profile = replace(profile, pictures=True)
        place = write_profile(profile)
        told = f"profile {profile.name} of {profile.host} is in {place}"
    elif given.action == "remove":
        told = f"profile {given.name} and its key are removed from {remove_profile(given.name)}"
    elif given.action == "agree":
        told = f"pictures may be sent to {agree_to_pictures(given.name).host}"
    else:
        rows = [_row(profile) for profile in read_profiles().values()]
        if not given.json:
            for row in rows:
                print("  ".join(f"{key}: {value}" for key, value in row.items()))
            if not rows:
                print(
                    f"there are no profiles in {profiles_file()}; add one with 'dynamicrafter language-model add'"
                )
        return {"file": str(profiles_file()), "profiles": rows}
    if not given.json:
        print(told)
    return {"file": str(profiles_file()), "profiles": [_row(profile) for profile in read_profiles().values()]}


def _row(profile: Profile) -> dict[str, Any]:
    key = f"${profile.key_variable}" if profile.key_variable else "yes" if profile.key else "no"
    return {
        "name": profile.name,
        "url": profile.url,
        "model": profile.model,
        "key": key,
        "pictures": profile.is_local or profile.pictures,
    }


def _key() -> str:
    """A key that is typed without being shown, or the first line of standard input."""
    if sys.stdin.isatty():
        return getpass.getpass("key (not shown; empty for none): ").strip()
    return sys.stdin.readline().strip()
