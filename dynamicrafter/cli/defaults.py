"""A user's defaults for the options of commands that generate clips: a TOML file and environment variables.

An argument has precedence over an environment variable, and that over the file.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..errors import UsageError
from ..parameters import PARAMETERS, Parameter
from ..toml_text import parse_toml
from ..user_folders import settings_folder
from ..weights.download import weights_folder
from .parser import CLIP_COMMANDS, make_parser

FILE_VARIABLE = "DYNAMICRAFTER_CONFIG"
"""The environment variable with the path of the file; others are ``DYNAMICRAFTER_`` and the name of an option."""
_PREFIX = "DYNAMICRAFTER_"

ONE_RUN = ("help", "json", "debug", "dry_run", "output", "pictures", "video", "mask", "control", "hint")
"""What belongs to one run and has no default of the user's."""
_PATHS = ("model", "lora", "text_encoder", "image_encoder")
"""Options in whose values ``~`` is the user's folder, as a shell would have it."""

REPLACES = {
    "fs": ("motion",),
    "motion": ("fs",),
    "model": ("variant", "lora", "text_encoder", "image_encoder"),
    # Another backend than PyTorch keeps weights and compiles its own way, on a device of its own.
    "backend": ("weights", "memory", "compile", "device"),
}
"""What an option makes void where it comes from a source of lower precedence."""


@dataclass(frozen=True)
class Default:
    """A default of the user's."""

    written: Any
    """As in the file or the variable."""
    value: Any
    """As parsed."""
    source: str
    """The path of the file or the name of the variable."""


def with_defaults(arguments: Namespace, words: Sequence[str]) -> Namespace:
    """``arguments``, as parsed from ``words``, with the user's defaults for options that are not among them."""
    defaults = user_defaults()
    if not defaults:
        return arguments
    parser = make_parser("")
    for action in actions_of(parser, arguments.command):
        action.default = argparse.SUPPRESS
    typed = vars(parser.parse_args(words))
    values = _merged({name: default.value for name, default in defaults.items()}, typed)
    return Namespace(**{**vars(arguments), **values})


def user_defaults() -> dict[str, Default]:
    """The defaults of file and environment by the options' names; raises UsageError for one that is invalid."""
    actions = {
        action.dest: action
        for action in actions_of(make_parser(""), CLIP_COMMANDS[0])
        if action.dest not in ONE_RUN
    }
    place = defaults_file()
    file: dict[str, Default] = {}
    for key, value in _read(place).items():
        name = key.replace("-", "_")
        if name not in actions:
            near = difflib.get_close_matches(name, actions, n=1)
            advice = f"did you mean {near[0]!r}?" if near else "'dynamicrafter config' lists the options"
            raise UsageError(f"{place} has the unknown option {key!r}; {advice}")
        file[name] = Default(value, parse_value(actions[name], value, str(place)), str(place))
    environment: dict[str, Default] = {}
    for name, action in actions.items():
        variable = _PREFIX + name.upper()
        text = os.environ.get(variable)
        if text:
            environment[name] = Default(text, parse_value(action, text, variable), variable)
    return _merged(file, environment)


def _merged(lower: Mapping[str, Any], higher: Mapping[str, Any]) -> dict[str, Any]:
    """Both, without what ``higher`` replaces or makes void."""
    void = {name for option in higher for name in REPLACES.get(option, ())}
    return {**{name: value for name, value in lower.items() if name not in void}, **higher}


def defaults_file() -> Path:
    """``DYNAMICRAFTER_CONFIG``, else ``dynamicrafter/config.toml`` in the user's folder for settings.

    That is ``%APPDATA%`` on Windows, ``~/Library/Application Support`` on macOS, and ``XDG_CONFIG_HOME`` or
    ``~/.config`` elsewhere. Raises UsageError if the variable names a file that does not exist.
    """
    chosen = os.environ.get(FILE_VARIABLE)
    if chosen:
        place = Path(os.path.expanduser(chosen))
        if not place.exists():
            raise UsageError(f"there is no file {chosen}; correct or unset {FILE_VARIABLE}")
        return place
    return settings_folder(sys.platform) / "config.toml"


def _read(place: Path) -> dict[str, Any]:
    """The contents of the file; empty if it does not exist."""
    try:
        # Windows editors may write a byte order mark.
        return parse_toml(place.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as problem:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors.
        raise UsageError(f"{place} cannot be read ({problem}); correct it or remove it") from problem


def parse_value(action: Any, value: Any, source: str, table: Mapping[str, Parameter] = PARAMETERS) -> Any:
    """A value as the option's argument; raises UsageError for one that the option does not take.

    ``table`` has the parameters of which the command has options.
    """
    name = f"{action.dest} in {source}"
    if action.nargs == 0:  # A flag.
        chosen = {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower())
        if chosen is None:
            raise UsageError(f"{name} must be true or false, not {value!r}")
        return chosen == action.const
    many = cast("list[Any]", value) if isinstance(value, list) else [value]
    repeated = isinstance(action.default, list) or action.dest == "lora"
    kinds = (str, int, float, list) if repeated else (str, int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UsageError(f"{name} must be written as on the command line, not {value!r}")
    texts = [os.path.expanduser(str(one)) if action.dest in _PATHS else str(one) for one in many]
    if action.dest == "lora":
        return [_argument(action, text, source, table) for text in texts]
    return _argument(action, ",".join(texts), source, table)


def _argument(action: Any, text: str, source: str, table: Mapping[str, Parameter]) -> Any:
    name = f"{action.dest} in {source}"
    try:
        value = text if action.type is None else action.type(text)
    except argparse.ArgumentTypeError as problem:
        raise UsageError(f"{name} {problem}") from problem
    except ValueError as problem:
        raise UsageError(f"{name} must be written as on the command line, not {text!r}") from problem
    if action.choices is not None and value not in action.choices:
        raise UsageError(f"{name} must be one of {', '.join(action.choices)}, not {text!r}")
    parameter = table.get(action.dest)
    if parameter is not None and parameter.name != "seed":  # Of which there may be several.
        try:
            parameter.check(value)
        except UsageError as problem:
            raise UsageError(f"{source}: {problem}") from problem
    return value


def actions_of(parser: Any, command: str) -> list[Any]:
    """The arguments of a command."""
    (commands,) = (action for action in parser._actions if action.dest == "command")
    return commands.choices[command]._actions


def run(given: Namespace) -> dict[str, Any]:
    """Run ``config`` and return what ``--json`` prints."""
    place, defaults = defaults_file(), user_defaults()
    names = [action.dest for action in actions_of(make_parser(""), CLIP_COMMANDS[0])]
    if not given.json:
        print(f"file: {place}{'' if place.exists() else ' (does not exist)'}")
        print(f"weights folder: {weights_folder()}")
        for name, default in defaults.items():
            print(f"{name} = {default.written!r}  ({default.source})")
        rest = ", ".join(name for name in names if name not in (*defaults, *ONE_RUN))
        print(f"not set: {rest}")
    return {
        "file": str(place),
        "exists": place.exists(),
        "folder": str(weights_folder()),
        "defaults": {name: {"value": one.written, "source": one.source} for name, one in defaults.items()},
    }
