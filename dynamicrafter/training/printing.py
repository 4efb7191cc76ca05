"""Writes a training config as TOML with a comment for every setting."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, cast

from .config import BUILT_IN_RECIPES, Config, FinetuneConfig
from .options import Setting, settings_of

_HEAD = """\
# A training config. Lines that begin with # and a name show the defaults, or an example if the setting is absent by
# default; remove the # to change them.
"""
_WIDTH = 100


def as_toml(config: Config) -> str:
    """A config as TOML that :func:`load_config` reads back; settings that have their default are commented out."""
    if not isinstance(config, FinetuneConfig):
        recipe = next(name for name, kind in BUILT_IN_RECIPES.items() if isinstance(config, kind))
        return f'# The recipe of the built-in model has no settings.\nrecipe = "{recipe}"\n'
    parts = [_HEAD, 'recipe = "finetune"\n']
    for setting in settings_of(FinetuneConfig):
        comment = textwrap.fill(_sentence(setting), _WIDTH, initial_indent="# ", subsequent_indent="# ")
        line = f"[{setting.name}]" if is_dataclass(setting.hint) else _line(setting, config)
        parts.append(f"{comment}\n{line}\n")
    return "\n".join(parts)


def _sentence(setting: Setting) -> str:
    meaning = setting.option.meaning
    values = "" if is_dataclass(setting.hint) else f" ({setting.values})"
    return f"{meaning[0].upper()}{meaning[1:]}{values}."


def _line(setting: Setting, config: object) -> str:
    value: Any = config
    for part in setting.name.split("."):
        value = getattr(value, part)
    name = setting.name.rpartition(".")[2]
    if value != setting.default or setting.default is MISSING:
        return f"{name} = {toml_value(value)}"
    return f"#{name} = {toml_value(setting.option.example if value is None else value)}"


def toml_value(value: Any) -> str:
    """A value as TOML, whose strings may be those of JSON."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, cast('list[Any]', value)))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if is_dataclass(value):
        value = {key.name: getattr(value, key.name) for key in fields(value)}
    if isinstance(value, Mapping):
        pairs = cast(Mapping[str, Any], value).items()
        return (
            f"{{ {', '.join(f'{key} = {toml_value(inner)}' for key, inner in pairs if inner is not None)} }}"
        )
    return repr(value)
