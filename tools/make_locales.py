"""Write ``locales/en`` and ``locales/zh``: the words of our nodes as a running host gives them, and in Chinese.

Usage, in the top folder, with a ComfyUI running that has this pack as it is now:
``python -m tools.make_locales http://127.0.0.1:8188``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .graphs import OURS, Schemas, inputs_of, read_schemas

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "locales"
CHINESE = Path(__file__).with_name("chinese.json")

LABELS = {
    "tiny (built in)": "tiny: coloured shapes 64x64, built in",
    "random (built in)": "random: untrained, makes noise, built in",
}
"""Choices that the editor shows by another name; saved workflows contain the choice itself."""

Say = Callable[[str], str]


def words(schemas: Schemas, name: Say, text: Say, choices: Mapping[str, str]) -> dict[str, Any]:
    """Names, descriptions and tooltips of our nodes in the host's form, each as ``name`` and ``text`` say it.

    ``choices`` are the labels of choices. The host ignores them; web/editor.js shows them.
    """
    nodes: dict[str, Any] = {}
    for kind in sorted(kind for kind in schemas if kind.startswith(OURS)):
        schema = schemas[kind]
        nodes[kind] = {
            "display_name": name(schema["display_name"]),
            "description": text(schema["description"]),
            "inputs": {
                key: {
                    "name": name(key),
                    "tooltip": text(options["tooltip"]),
                    **labelled(kinds, options, choices),
                }
                for key, kinds, options, _ in inputs_of(schema)
            },
            "outputs": {
                str(slot): {"name": name(key), "tooltip": text(tooltip)}
                for slot, (key, tooltip) in enumerate(
                    zip(schema["output_name"], schema["output_tooltips"], strict=True)
                )
            },
        }
    return nodes


def labelled(kind: Any, options: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """The labels of the choices of one input, by choice, if any have one."""
    offered = kind if isinstance(kind, list) else options.get("options", ())
    labels = {choice: choices[choice] for choice in offered if choice in choices}
    return {"options": labels} if labels else {}


def rendered(schemas: Schemas) -> dict[str, str]:
    """The text of every file by its path below ``locales``; raises KeyError for words without a translation."""
    chinese = json.loads(CHINESE.read_text(encoding="utf-8"))
    values = {label: value for value, label in LABELS.items()}
    translated = {values.get(label, label): label for label in chinese["choices"]}
    files = {
        "en/nodeDefs.json": words(schemas, str, str, translated),
        "zh/nodeDefs.json": words(
            schemas,
            chinese["names"].__getitem__,
            chinese["texts"].__getitem__,
            {value: chinese["choices"][label] for value, label in translated.items()},
        ),
    }
    return {path: json.dumps(values, indent=2, ensure_ascii=False) + "\n" for path, values in files.items()}


def main(url: str) -> None:
    """Write all files."""
    for path, text in rendered(read_schemas(url)).items():
        (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / path).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1])
