"""Graphs described once and written twice: for ComfyUI's editor (format 0.4) and for its API.

The order of sockets and widgets comes from the schemas a running host gives at ``/object_info``, so that the
positional values of the editor's format are right whatever a schema looks like.
"""

from __future__ import annotations

import json
import re
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Schemas = Mapping[str, Any]
"""Schemas by node type, as ``/object_info`` gives them."""

OURS = "DynamiCrafter"
"""What the types of our nodes begin with."""
CORE_VERSION = "0.30.0"
"""The ComfyUI the graphs were made with."""
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_DYNAMIC = "COMFY_DYNAMICCOMBO"
"""What the types of choices begin with that bring inputs of their own with them."""
NOTE = "MarkdownNote"
NOTE_COLOURS = {"color": "#1d2630", "bgcolor": "#26323f"}
"""Dark enough for white text and links; in its light theme the editor lightens them, so that black text is legible."""

OUTSIDE = "outside"
"""The value of a socket that is connected outside of a blueprint."""
_INPUT_NODE, _OUTPUT_NODE = -10, -20
"""Numbers of the two ends of a subgraph, fixed by the editor."""
_COLUMN_GAP, _ROW_GAP, _TITLE = 40, 30, 30
_WIDTHS = {
    "DynamiCrafterAnimate": 380,
    "DynamiCrafterAnimatePerson": 380,
    "DynamiCrafterPersonLoader": 360,
    "DynamiCrafterPersonConditioning": 360,
    "DynamiCrafterSamplePoses": 260,
    "DynamiCrafterImageConditioning": 360,
    "DynamiCrafterInterpolation": 360,
    "DynamiCrafterLooping": 360,
    "DynamiCrafterSamplePicture": 260,
    "LoadImage": 260,
    "LoadVideo": 260,
    "SaveVideo": 400,
    "CLIPLoader": 360,
    "CLIPVisionLoader": 360,
    "DynamiCrafterCheckpointLoader": 360,
}
_BELOW = {
    "DynamiCrafterVAEDecode": "",
    "VAEDecode": "",
    "SaveVideo": "CreateVideo",
    "RebatchImages": "",
    "SamplerCustomAdvanced": "",
}
"""Nodes that stand below the node of this type that they follow (``""``: of any type), not beside it."""
_PICTURES = {
    "DynamiCrafterSamplePicture": 200,
    "LoadImage": 200,
    "LoadVideo": 200,
    "SaveVideo": 430,
    "PreviewImage": 260,
}
"""Height of what a node shows below its widgets; a spare one shows nothing yet."""
_BUTTONS = {
    "DynamiCrafterAnimate": 24,
    "DynamiCrafterCameraGuide": 190,
    "DynamiCrafterCheckpointLoader": 24,
    "DynamiCrafterKeyframes": 24,
    "DynamiCrafterStory": 24,
    "TextGenerate": 72,
}
"""Height of what the editor adds to a node: a button or pad of ours, or core's widgets that a template leaves out."""
_PREVIEWED = (
    "DynamiCrafterSampler",
    "KSampler",
    "SamplerCustomAdvanced",
    "DynamiCrafterAnimate",
    "DynamiCrafterAnimatePerson",
    "DynamiCrafterPersonSampler",
    "DynamiCrafterGenerate",
    "DynamiCrafterKeyframes",
    "DynamiCrafterStory",
)
"""Nodes that grow by a preview while they run."""
PREVIEW_ROOM = 220
"""Pixels that stay free below such a node, besides the gap to the next; a preview takes as many."""
MAX_WIDTH, MAX_HEIGHT = 1900, 1160
"""Size up to which the editor, 1600x950 pixels large, opens a graph at a scale at which it draws text."""
_NOTES_WIDTH = 1880
"""Least width of the row of notes; a graph that is wider has wider ones."""
_NOTE_LINE, _NOTE_LETTER = 12.5, 5.2
"""Height of a line and mean width of a letter in a note."""


def read_schemas(url: str) -> Schemas:
    """The schemas of a running ComfyUI, such as ``http://127.0.0.1:8188``."""
    with urllib.request.urlopen(f"{url.rstrip('/')}/object_info", timeout=60) as answer:
        return json.load(answer)


@dataclass(frozen=True)
class Output:
    """One output of a node: what another node's input is given."""

    node: Node
    name: str


@dataclass
class Node:
    """A node of a graph; ``node["name"]`` is its output of that name."""

    id: int
    type: str
    values: dict[str, Any]
    title: str = ""
    models: list[dict[str, str]] = field(default_factory=list)
    column: int | None = None
    width: int | None = None
    spare: bool = False

    def __getitem__(self, name: str) -> Output:
        return Output(self, name)

    def sources(self) -> list[Node]:
        """The nodes that its inputs come from."""
        return [value.node for value in self.values.values() if isinstance(value, Output)]


def inputs_of(schema: Mapping[str, Any]) -> list[tuple[str, Any, Mapping[str, Any], bool]]:
    """Name, type, options and whether it is required of every input, in the order of the widgets.

    Inputs that grow with what is connected count as many as they may, named as the host names them.
    """
    found: list[tuple[str, Any, Mapping[str, Any], bool]] = []
    for group in ("required", "optional"):
        for name in schema["input_order"].get(group, []):
            kind, *options = schema["input"][group][name]
            if kind == "COMFY_AUTOGROW_V3":
                template = options[0]["template"]
                ((kind, _),) = template["input"]["required"].values()
                parts = [f"{name}.{template['prefix']}{number}" for number in range(template["max"])]
                found += [(part, kind, {}, number < template["min"]) for number, part in enumerate(parts)]
            else:
                found.append((name, kind, options[0] if options else {}, group == "required"))
                if str(kind).startswith(_DYNAMIC):
                    found += _inputs_of_choices(name, options[0]["options"])
    return found


def _inputs_of_choices(
    name: str, choices: list[Mapping[str, Any]]
) -> list[tuple[str, Any, Mapping[str, Any], bool]]:
    """The inputs that the choices of an input bring with them; none is required, as another may be chosen.

    An input that several choices bring is there once.
    """
    brought = {
        f"{name}.{inner}": (kind, options[0] if options else {})
        for choice in choices
        for group in choice["inputs"].values()
        for inner, (kind, *options) in group.items()
    }
    return [(inner, kind, options, False) for inner, (kind, options) in brought.items()]


def is_widget(kind: Any, options: Mapping[str, Any]) -> bool:
    """Whether an input is a field of the node itself: a plain value or a choice."""
    plain = isinstance(kind, list) or kind in WIDGET_TYPES or str(kind).startswith(_DYNAMIC)
    return plain and not options.get("forceInput")


class Graph:
    """Nodes and notes; :meth:`editor`, :meth:`blueprint` and :meth:`api` are the ways to write them down."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.notes: list[tuple[str, str]] = []
        self.exposed: list[tuple[Node, str]] = []
        self.results: list[tuple[str, Output]] = []

    def add(
        self,
        kind: str,
        *,
        title: str = "",
        models: list[dict[str, str]] | None = None,
        column: int | None = None,
        width: int | None = None,
        spare: bool = False,
        **values: Any,
    ) -> Node:
        """A node with values for its widgets and outputs of other nodes for its sockets.

        ``models`` are what the editor offers to download; ``column`` and ``width`` (pixels) override the place from
        left to right and the usual width. A ``spare`` node lies ready for a person to connect, and is none
        of the API's format.
        """
        node = Node(len(self.nodes) + 1, kind, values, title, models or [], column, width, spare)
        self.nodes.append(node)
        return node

    def note(self, title: str, text: str) -> None:
        """A note in Markdown, below the graph."""
        self.notes.append((title, text))

    def expose(self, node: Node, *names: str) -> None:
        """Make inputs of a node those of the blueprint; its values become their defaults."""
        self.exposed += [(node, name) for name in names]

    def result(self, name: str, output: Output) -> None:
        """Make an output of a node one of the blueprint."""
        self.results.append((name, output))

    # --- values ---

    def _given(self, node: Node, schema: Mapping[str, Any]) -> dict[str, Any]:
        """All values of a node by input: as described, else the schema's default, as far as they are needed.

        Widgets of core nodes that nobody described and that may be left out are left out, since another
        version of ComfyUI may not have them.
        """
        known = {name for name, *_ in inputs_of(schema)}
        if unknown := sorted(set(node.values) - known):
            raise ValueError(f"{node.type} has no inputs {', '.join(unknown)}")
        given: dict[str, Any] = {}
        for name, kind, options, required in inputs_of(schema):
            if name in node.values:
                given[name] = node.values[name]
            elif is_widget(kind, options) and (required or node.type.startswith(OURS)):
                if "default" not in options:
                    raise ValueError(f"{node.type} needs a value for {name}")
                given[name] = options["default"]
            elif required:
                raise ValueError(f"{node.type} needs a link to {name}")
        return given

    def _slot(self, output: Output, schemas: Schemas) -> int:
        return schemas[output.node.type]["output_name"].index(output.name)

    # --- the API's format ---

    def api(self, schemas: Schemas) -> dict[str, Any]:
        """The graph as ``POST /prompt`` takes it."""
        prompt: dict[str, Any] = {}
        for node in self.nodes:
            if node.spare:
                continue
            schema = schemas[node.type]
            inputs = {
                name: [str(value.node.id), self._slot(value, schemas)] if isinstance(value, Output) else value
                for name, value in self._given(node, schema).items()
            }
            prompt[str(node.id)] = {
                "inputs": inputs,
                "class_type": node.type,
                "_meta": {"title": node.title or node.type},
            }
        return prompt

    # --- the editor's format ---

    def editor(self, schemas: Schemas, version: str) -> dict[str, Any]:
        """The graph as the editor saves it; ``version`` is the pack's."""
        links: list[list[Any]] = []
        written = [self._node(node, schemas, version) for node in self.nodes]
        for node in self.nodes:
            for slot, socket in enumerate(written[node.id - 1]["inputs"]):
                value = node.values.get(socket["name"])
                if isinstance(value, Output):
                    kind = schemas[value.node.type]["output"][self._slot(value, schemas)]
                    origin = self._slot(value, schemas)
                    links.append([len(links) + 1, value.node.id, origin, node.id, slot, kind])
                    socket["link"] = len(links)
                    written[value.node.id - 1]["outputs"][origin]["links"].append(len(links))
        self._place(written)
        notes = self._written_notes(written)
        for order, node in enumerate([*notes, *written]):
            node["order"] = order
        return {
            "last_node_id": len(written) + len(notes),
            "last_link_id": len(links),
            "nodes": [*written, *notes],
            "links": links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }

    def blueprint(self, schemas: Schemas, version: str, name: str, description: str) -> dict[str, Any]:
        """The graph as one node for the editor's library: a graph whose only node is a subgraph."""
        inner = self.editor(schemas, version)
        nodes = {node["id"]: node for node in inner["nodes"]}
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        links: list[dict[str, Any]] = [dict(zip(names, link, strict=True)) for link in inner["links"]]
        sockets: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
        outside: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}

        def join(side: str, label: str, kind: str, ends: Mapping[str, int], shown: Mapping[str, Any]) -> int:
            links.append({"id": len(links) + 1, **ends, "type": kind})
            identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{side}/{label}"))
            sockets[side].append({"id": identity, "name": label, "type": kind, "linkIds": [len(links)]})
            outside[side].append({"name": label, "type": kind, **shown})
            return len(links)

        for number, (node, label) in enumerate(self.exposed):
            slot, socket = next(
                found for found in enumerate(nodes[node.id]["inputs"]) if found[1]["name"] == label
            )
            ends = {
                "origin_id": _INPUT_NODE,
                "origin_slot": number,
                "target_id": node.id,
                "target_slot": slot,
            }
            shown = {"link": None, **({"widget": {"name": label}} if "widget" in socket else {})}
            socket["link"] = join("inputs", label, socket["type"], ends, shown)
        for number, (label, output) in enumerate(self.results):
            slot = self._slot(output, schemas)
            socket = nodes[output.node.id]["outputs"][slot]
            ends = {
                "origin_id": output.node.id,
                "origin_slot": slot,
                "target_id": _OUTPUT_NODE,
                "target_slot": number,
            }
            socket["links"].append(join("outputs", label, socket["type"], ends, {"links": None}))
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
        right = max(node["pos"][0] + node["size"][0] for node in inner["nodes"])
        subgraph = {
            "id": identity,
            "version": 1,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": inner["last_node_id"],
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": name,
            "inputNode": {"id": _INPUT_NODE, "bounding": [-200, 0, 140, 40 + 20 * len(sockets["inputs"])]},
            "outputNode": {
                "id": _OUTPUT_NODE,
                "bounding": [right + 60, 0, 140, 40 + 20 * len(sockets["outputs"])],
            },
            **sockets,
            "widgets": [],
            "nodes": inner["nodes"],
            "groups": [],
            "links": links,
            "extra": {},
            "category": "Video generation and editing",
            "description": description,
        }
        whole = {
            "id": inner["last_node_id"] + 1,
            "type": identity,
            "pos": [0, 0],
            "size": [400, 300],
            "flags": {},
            "order": 0,
            "mode": 0,
            **outside,
            "title": name,
            "properties": {"cnr_id": "dynamicrafter-studio", "ver": version},
            "widgets_values": [],
        }
        return {
            **inner,
            "revision": 0,
            "last_node_id": whole["id"],
            "last_link_id": 0,
            "nodes": [whole],
            "links": [],
            "definitions": {"subgraphs": [subgraph]},
        }

    def _node(self, node: Node, schemas: Schemas, version: str) -> dict[str, Any]:
        schema = schemas[node.type]
        given = self._given(node, schema)
        sockets: list[dict[str, Any]] = []
        widgets: list[dict[str, Any]] = []
        values: list[Any] = []
        texts = 0
        for name, kind, options, _ in inputs_of(schema):
            if not is_widget(kind, options):
                # Of inputs that grow, only those in use.
                if name in given or "." not in name:
                    sockets.append({"name": name, "type": kind, "link": None})
                continue
            if name not in given:
                continue
            kind = "COMBO" if isinstance(kind, list) else kind
            widgets.append({"name": name, "type": kind, "widget": {"name": name}, "link": None})
            values.append(options.get("default") if isinstance(given[name], Output) else given[name])
            texts += bool(options.get("multiline"))
            if options.get("control_after_generate"):
                values.append("randomize")
            if options.get("image_upload") or options.get("video_upload"):
                values.append("image")
        outputs = [
            {"name": name, "type": kind, "links": []}
            for name, kind in zip(schema["output_name"], schema["output"], strict=True)
        ]
        properties: dict[str, Any] = {
            "cnr_id": "dynamicrafter-studio" if node.type.startswith(OURS) else "comfy-core",
            "ver": version if node.type.startswith(OURS) else CORE_VERSION,
            "Node name for S&R": node.type,
        }
        if node.models:
            properties["models"] = node.models
        height = 16 + 20 * max(len(sockets), len(outputs)) + 24 * len(values) + 60 * texts
        written: dict[str, Any] = {
            "id": node.id,
            "type": node.type,
            "pos": [0, 0],
            "size": [
                node.width or _WIDTHS.get(node.type, 290),
                height + (0 if node.spare else _PICTURES.get(node.type, 0)) + _BUTTONS.get(node.type, 0),
            ],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [*sockets, *widgets],
            "outputs": outputs,
            "properties": properties,
            "widgets_values": values,
        }
        if node.title:
            written["title"] = node.title
        return written

    def _place(self, written: list[dict[str, Any]]) -> None:
        """Columns from left to right as the links go, rows in the order of the description."""
        columns: dict[int, int] = {}
        for node in self.nodes:
            behind = max(
                (columns[source.id] + (not _is_below(node, source)) for source in node.sources()), default=0
            )
            columns[node.id] = behind if node.column is None else node.column
        x = 0
        for column in range(max(columns.values(), default=-1) + 1):
            here = [item for item in written if columns[item["id"]] == column]
            y = 0
            for item in here:
                item["pos"] = [x, y]
                y += room(item) + _TITLE + _ROW_GAP
            x += max((item["size"][0] for item in here), default=0) + _COLUMN_GAP

    def _written_notes(self, written: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The notes side by side below all nodes, each as wide as the others and as high as the longest."""
        right = max((item["pos"][0] + item["size"][0] for item in written), default=0)
        y = max((item["pos"][1] + room(item) for item in written), default=0) + _TITLE + _ROW_GAP
        width = (max(right, _NOTES_WIDTH) - _COLUMN_GAP * (len(self.notes) - 1)) // max(len(self.notes), 1)
        letters = int((width - 40) / _NOTE_LETTER)
        # An address is written, but not shown.
        shown = [re.sub(r"\]\(.*?\)", "]", text) for _, text in self.notes]
        rows = [
            sum(1 + len(line) // letters for line in text.splitlines() if line) + 0.7 * text.count("\n\n")
            for text in shown
        ]
        height = 40 + int(_NOTE_LINE * max(rows, default=0))
        return [
            {
                "id": len(self.nodes) + number + 1,
                "type": NOTE,
                "pos": [number * (width + _COLUMN_GAP), y],
                "size": [width, height],
                "flags": {},
                "order": 0,
                "mode": 0,
                "inputs": [],
                "outputs": [],
                "title": title,
                "properties": {},
                "widgets_values": [text],
                **NOTE_COLOURS,
            }
            for number, (title, text) in enumerate(self.notes)
        ]


def room(node: Mapping[str, Any]) -> float:
    """Height of a written node, with what its preview needs below it."""
    return node["size"][1] + (PREVIEW_ROOM if node["type"] in _PREVIEWED else 0)


def _is_below(node: Node, source: Node) -> bool:
    return _BELOW.get(node.type) in ("", source.type)
