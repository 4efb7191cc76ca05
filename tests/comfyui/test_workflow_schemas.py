"""The shipped workflows beside the schemas of a real host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pack_graphs import NEWER

from tools.graphs import CORE_VERSION, inputs_of, is_widget
from tools.make_templates import FOLDER, SUBGRAPHS, rendered, rendered_blueprints
from tools.template_parts import CORE_MODELS, CoreModel

if TYPE_CHECKING:
    from comfyui_host import Host

API = sorted(FOLDER.glob("api/*.json"))
FILE_CHOICES = {"image", "file", "clip_name", "checkpoint", "ckpt_name", "control_net_name", "model_name"}
"""Lists of files, which every machine has its own of."""


@pytest.fixture(scope="module")
def schemas(pack_server: Any) -> dict[str, Any]:
    with pack_server.client() as client:
        return client.object_info()


@pytest.mark.parametrize("path", API, ids=[path.stem for path in API])
def test_the_graph_fits_the_host(path: Path, schemas: dict[str, Any]) -> None:
    """Every node is there, every input too, required ones are given, links and choices are of the right kind."""
    prompt = json.loads(path.read_text(encoding="utf-8"))
    if lacking := {node["class_type"] for node in prompt.values()} & NEWER - set(schemas):
        pytest.skip(f"this host has no {', '.join(lacking)}")
    for node in prompt.values():
        schema = schemas[node["class_type"]]
        known = {name: (kind, options, required) for name, kind, options, required in inputs_of(schema)}
        assert set(node["inputs"]) <= set(known), node["class_type"]
        assert {name for name, (*_, required) in known.items() if required} <= set(node["inputs"])
        for name, value in node["inputs"].items():
            kind, options, _ = known[name]
            if isinstance(value, list):
                origin = schemas[prompt[value[0]]["class_type"]]
                # Some sockets take several types.
                assert origin["output"][value[1]] in (kind, *str(kind).split(","))
                continue
            assert is_widget(kind, options)
            choices = kind if isinstance(kind, list) else options.get("options")
            if choices and name not in FILE_CHOICES:
                assert value in [choice["key"] if isinstance(choice, dict) else choice for choice in choices]
            if "min" in options:
                assert options["min"] <= value <= options.get("max", value)


@pytest.mark.parametrize("model", CORE_MODELS, ids=lambda model: model.name)
def test_files_for_core_nodes_are_those_of_cores_own_subgraphs(comfyui_host: Host, model: CoreModel) -> None:
    blueprints = sorted((comfyui_host.folder / "blueprints").glob("*.json"))
    if not blueprints:
        pytest.skip("this host has no subgraphs of its own")
    offers: list[dict[str, str]] = []
    for path in blueprints:
        inner = json.loads(path.read_text(encoding="utf-8")).get("definitions", {}).get("subgraphs", [])
        for node in (node for graph in inner for node in graph["nodes"]):
            offers += node["properties"].get("models", [])
    assert model.offer in offers


def test_the_files_are_what_their_descriptions_make(comfyui_host: Host, schemas: dict[str, Any]) -> None:
    if comfyui_host.version != CORE_VERSION:
        pytest.skip(f"the files are made with ComfyUI {CORE_VERSION}, and this one is {comfyui_host.version}")
    made = {**rendered(schemas), **rendered_blueprints(schemas)}
    kept = {
        path.relative_to(FOLDER if path.is_relative_to(FOLDER) else SUBGRAPHS).as_posix(): path.read_text(
            encoding="utf-8"
        )
        for path in [*FOLDER.glob("*.json"), *API, *SUBGRAPHS.glob("*.json")]
    }
    again = "python -m tools.make_templates URL"
    assert sorted(made) == sorted(kept), again
    assert [name for name, text in made.items() if kept[name] != text] == [], again
