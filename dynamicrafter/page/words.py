"""The texts of the page in its languages, from the JSON files beside this module."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from ..errors import DynamiCrafterError, Words

LANGUAGES = ("en", "zh", "uk")
"""The first is for everyone else."""


def _texts(language: str) -> Mapping[str, str]:
    path = Path(__file__).with_name("texts") / f"{language}.json"
    return cast(Mapping[str, str], json.loads(path.read_text(encoding="utf-8")))


TEXTS: Mapping[str, Mapping[str, str]] = {language: _texts(language) for language in LANGUAGES}

PAGE_WORDS: Words = {
    "choose_model": "choose another model",
    "describe_motion": "describe the motion in the prompt",
    "download": "whoever runs this page downloads it with 'dynamicrafter download {}'",
    "name_towers": "whoever runs this page downloads them with 'dynamicrafter download {}'",
    "lower_cfg": "use a lower guidance scale",
}
"""How the page phrases the remedies of errors."""
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/]+/)+")
"""Those of an absolute path."""


def said(problem: DynamiCrafterError) -> str:
    """What is wrong, in the page's words and without the folders of this machine."""
    return _FOLDERS.sub("", problem.said(PAGE_WORDS))


def language_of(accepted: str) -> str:
    """The language of the page for a header Accept-Language."""
    wishes: list[tuple[float, str]] = []
    for part in accepted.split(","):
        name, _, weight = part.strip().partition(";q=")
        try:
            wishes.append((float(weight or 1), name.partition("-")[0].lower()))
        except ValueError:
            continue
    for _, name in sorted(wishes, key=lambda wish: -wish[0]):
        if name in LANGUAGES:
            return name
    return LANGUAGES[0]
