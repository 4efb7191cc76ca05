"""Write ``workflows/*.json`` (for the editor), ``workflows/api/*.json`` and ``subgraphs/*.json`` (for its library).

All of them come from the descriptions in ``templates``.

Usage, in the top folder, with a ComfyUI running that has this pack as it is now:
``python -m tools.make_templates http://127.0.0.1:8188``
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .graphs import Schemas, read_schemas
from .templates import BLUEPRINTS, TEMPLATES

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "workflows"
SUBGRAPHS = ROOT / "subgraphs"


def pack_version() -> str:
    """The version in pyproject.toml."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert found is not None
    return found[1]


def built_in_model(schemas: Schemas) -> str:
    """The first choice of our loader, which is a model that comes with the pack."""
    return schemas["DynamiCrafterCheckpointLoader"]["input"]["required"]["checkpoint"][1]["options"][0]


def rendered(schemas: Schemas) -> dict[str, str]:
    """The text of every file by its path below ``workflows``."""
    files: dict[str, str] = {}
    built_in = built_in_model(schemas)
    for name, template in TEMPLATES.items():
        graph = template(built_in)
        files[f"{name}.json"] = as_text(graph.editor(schemas, pack_version()))
        files[f"api/{name}.json"] = as_text(graph.api(schemas))
    return files


def rendered_blueprints(schemas: Schemas) -> dict[str, str]:
    """The text of every file below ``subgraphs``."""
    return {
        f"{name}.json": as_text(graph.blueprint(schemas, pack_version(), name, description))
        for name, (description, graph) in BLUEPRINTS.items()
    }


def as_text(values: Mapping[str, Any]) -> str:
    """JSON as it is kept in the repository."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def main(url: str) -> None:
    """Write all files, and remove those of templates that are no more."""
    schemas = read_schemas(url)
    for folder, files in ((FOLDER, rendered(schemas)), (SUBGRAPHS, rendered_blueprints(schemas))):
        for old in [*folder.glob("*.json"), *folder.glob("api/*.json")]:
            if old.relative_to(folder).as_posix() not in files:
                old.unlink()
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1])
