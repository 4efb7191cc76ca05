"""Every shipped workflow, without a host: whole graphs, nothing of one machine, and both formats saying the same.

That they fit the schemas of a host is asked of a real one in ``tests/comfyui/test_workflow_schemas.py``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from dynamicrafter.weights.catalogue import RELEASES
from tools.graphs import MAX_HEIGHT, MAX_WIDTH, PREVIEW_ROOM
from tools.make_thumbnails import SIDE
from tools.template_parts import CONTROL_MODELS, CORE_MODELS

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
PICTURES = {"DynamiCrafterSamplePicture"}
SAMPLERS = (
    "DynamiCrafterSampler",
    "KSampler",
    "SamplerCustomAdvanced",
    "DynamiCrafterAnimate",
    "DynamiCrafterKeyframes",
    "DynamiCrafterStory",
)
EDITOR = sorted(WORKFLOWS.glob("*.json"))
API = sorted(WORKFLOWS.glob("api/*.json"))
NOTES = ("MarkdownNote", "Note")
START = "DynamiCrafter animate picture - image to video in one node"
RELEASED = {
    "DynamiCrafter camera move - depth and orbit of a photo, 8 GB download",
    "DynamiCrafter ControlNet - edges of a clip to follow, 8 GB download",
    "DynamiCrafter model 1024 - image to video, 7 GB download",
    "DynamiCrafter model 512 - image to video, 7 GB download",
    "DynamiCrafter model 512 interpolation - two images, 7 GB download",
    "DynamiCrafter photo to film LLM - local language model, 12 GB download",
    "DynamiCrafter sketch - drawings of chosen frames, 9 GB download",
}
"""Templates that start with a released model."""
OF_VIDEO = "DynamiCrafter person SDPose - dance video to character, 2 GB download"
"""The template with a clip of one's own, and with core's own model of poses."""
DOWNLOADING = RELEASED | {
    OF_VIDEO,
    "DynamiCrafter frame interpolation - smoother video, 70 MB download",
    "DynamiCrafter upscale - video four times as large, 70 MB download",
}
PEOPLE = {path.stem for path in EDITOR if path.stem.startswith("DynamiCrafter person")}
"""Templates that move a character by poses, not by a prompt."""
FOUND_BY = (
    *("dynamicrafter", "animate picture", "image to video", "interpolation", "loop", "ksampler", "1024"),
    *("long clip", "keyframes", "endless loop", "photo to film", "story", "person", "animateanyone"),
    *("dance", "sdpose", "llm", "frame interpolation", "upscale", "camera", "depth"),
    *("controlnet", "edges of a clip", "sketch"),
)
"""What people search for."""
OURS = {
    "DynamiCrafterAmbience",
    "DynamiCrafterAnimate",
    "DynamiCrafterAnimatePerson",
    "DynamiCrafterCameraGuide",
    "DynamiCrafterCheckpointLoader",
    "DynamiCrafterDirectorPlan",
    "DynamiCrafterDirectorPrompt",
    "DynamiCrafterHintFrames",
    "DynamiCrafterImageConditioning",
    "DynamiCrafterInterpolation",
    "DynamiCrafterKeyframes",
    "DynamiCrafterLongClip",
    "DynamiCrafterLooping",
    "DynamiCrafterPersonConditioning",
    "DynamiCrafterPersonLoader",
    "DynamiCrafterPersonSampler",
    "DynamiCrafterPoseAlignment",
    "DynamiCrafterPoseDrawing",
    "DynamiCrafterPreset",
    "DynamiCrafterSamplePicture",
    "DynamiCrafterSamplePoses",
    "DynamiCrafterSampler",
    "DynamiCrafterStory",
    "DynamiCrafterSuggest",
    "DynamiCrafterVAEDecode",
}
AFTER_SEED = ("fixed", "randomize", "increment", "decrement")
MACHINE_PATH = re.compile(r"(^|[\s\"'`(])(/[A-Za-z]+/|~/|[A-Za-z]:[\\/]|file://)")
WEIGHTS = (".safetensors", ".ckpt", ".sft", ".pt", ".bin")

BLUEPRINTS = sorted((WORKFLOWS.parent / "subgraphs").glob("*.json"))
blueprint = pytest.mark.parametrize("path", BLUEPRINTS, ids=[path.stem for path in BLUEPRINTS])
editor = pytest.mark.parametrize("path", EDITOR, ids=[path.stem for path in EDITOR])
api = pytest.mark.parametrize("path", API, ids=[path.stem for path in API])


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def texts(value: Any) -> list[str]:
    """Every string inside a JSON value."""
    if isinstance(value, dict):
        return [text for part in value.values() for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


def in_use(graph: dict[str, Any]) -> set[int]:
    """Numbers of the nodes whose outputs are saved or shown in the end; others lie ready to be connected."""
    found = {node["id"] for node in graph["nodes"] if node["type"] in ("SaveVideo", "PreviewImage")}
    while more := {link[1] for link in graph["links"] if link[3] in found} - found:
        found |= more
    return found


def as_prompt(graph: dict[str, Any]) -> dict[str, Any]:
    """What the editor would send for a graph: class and inputs of each node by id."""
    origins = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    used = in_use(graph)
    prompt: dict[str, Any] = {}
    for node in graph["nodes"]:
        if node["id"] not in used:
            continue
        values = list(node["widgets_values"])
        inputs: dict[str, Any] = {}
        for socket in node["inputs"]:
            if "widget" in socket:
                inputs[socket["widget"]["name"]] = values.pop(0)
                if socket["name"] in ("seed", "noise_seed"):
                    assert values.pop(0) in AFTER_SEED
                if node["type"] in ("LoadImage", "LoadVideo"):
                    assert values.pop(0) == "image", "the upload button"
            if socket["link"] is not None:
                inputs[socket["name"]] = origins[socket["link"]]
        assert values == [], f"{node['type']} has more values than fields"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def test_names_are_what_people_search_for() -> None:
    """The dialog shows and searches nothing but names, and finds words only in the first 33 letters or so."""
    names = [path.stem for path in EDITOR]
    assert [path.stem for path in API] == names
    assert set(names) > RELEASED
    for word in FOUND_BY:
        assert [name for name in names if 0 <= name.lower().find(word) <= 33], word
    # Letters that are safe in the address of a file and in the names of every file system.
    assert [name for name in names if not re.fullmatch(r"DynamiCrafter [\w ,-]+", name)] == []
    assert len(max(names, key=len)) <= 70


def test_the_one_node_start_is_the_first() -> None:
    assert min((path.stem for path in EDITOR), key=str.lower) == START
    (ours,) = (node for node in read(WORKFLOWS / f"{START}.json")["nodes"] if node["type"] in OURS - PICTURES)
    assert ours["type"] == "DynamiCrafterAnimate"


def test_every_node_of_ours_is_used() -> None:
    assert {node["type"] for path in EDITOR for node in read(path)["nodes"]} >= OURS


def test_no_other_folder_hides_the_templates() -> None:
    """The host serves only the first of these that it finds, and workflows is the last."""
    for name in ("example_workflows", "example", "examples", "workflow"):
        assert not (WORKFLOWS.parent / name).exists()


@editor
def test_both_formats_say_the_same(path: Path) -> None:
    prompt = read(WORKFLOWS / "api" / path.name)
    titles = {name: node.pop("_meta") for name, node in prompt.items()}
    assert as_prompt(read(path)) == prompt
    assert all(title["title"] for title in titles.values())


def test_a_value_in_the_wrong_place_is_noticed() -> None:
    (path,) = WORKFLOWS.glob("*KSampler*.json")
    graph = read(path)
    (sampler,) = (node for node in graph["nodes"] if node["type"] == "KSampler")
    prompt = as_prompt(graph)
    sampler["widgets_values"].remove("randomize")
    with pytest.raises(AssertionError):
        assert as_prompt(graph) == prompt


@editor
def test_links_agree_with_the_nodes(path: Path) -> None:
    graph = read(path)
    assert graph["version"] == 0.4
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"]) and max(nodes) == graph["last_node_id"]
    assert [link[0] for link in graph["links"]] == list(range(1, graph["last_link_id"] + 1))
    for number, origin, origin_slot, target, target_slot, kind in graph["links"]:
        sender, receiver = nodes[origin]["outputs"][origin_slot], nodes[target]["inputs"][target_slot]
        assert number in sender["links"]
        assert receiver["link"] == number
        assert sender["type"] == kind
        # Some sockets take several types.
        assert kind in receiver["type"].split(",")
    ends = [socket["link"] for node in nodes.values() for socket in node["inputs"] if socket["link"]]
    assert sorted(ends) == [link[0] for link in graph["links"]]


def test_the_common_chains_are_blueprints() -> None:
    assert {path.stem.partition(" (")[0] for path in BLUEPRINTS} == {
        "First-Last-Frame to Video",
        "Image to Video",
        "Seamless Loop",
    }


@blueprint
def test_a_blueprint_is_one_node_with_a_whole_graph_inside(path: Path) -> None:
    graph = read(path)
    (whole,), (inner,) = graph["nodes"], graph["definitions"]["subgraphs"]
    assert whole["type"] == inner["id"] and inner["name"] == path.stem
    assert "DynamiCrafter" in inner["description"] and inner["category"].startswith("Video generation")
    for side in ("inputs", "outputs"):
        assert [(one["name"], one["type"]) for one in whole[side]] == [
            (one["name"], one["type"]) for one in inner[side]
        ]
    nodes = {node["id"]: node for node in inner["nodes"]}
    links = {link["id"]: link for link in inner["links"]}
    assert len(links) == len(inner["links"]) == inner["state"]["lastLinkId"]
    for number, link in links.items():
        if link["origin_id"] == inner["inputNode"]["id"]:
            assert inner["inputs"][link["origin_slot"]]["linkIds"] == [number]
        else:
            assert number in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        if link["target_id"] == inner["outputNode"]["id"]:
            assert inner["outputs"][link["target_slot"]]["linkIds"] == [number]
        else:
            socket = nodes[link["target_id"]]["inputs"][link["target_slot"]]
            assert (socket["link"], socket["type"]) == (number, link["type"])
    # Its files are offered by the editor, as those of the templates are.
    offered = [model for node in nodes.values() for model in node["properties"].get("models", [])]
    assert {model["url"] for model in offered} <= {release.url for release in RELEASES}
    assert all(any(model["name"] in node["widgets_values"] for node in nodes.values()) for model in offered)
    assert len(offered) == 2
    assert [text for text in texts(graph) if MACHINE_PATH.search(text)] == []


@editor
def test_nodes_do_not_overlap(path: Path) -> None:
    boxes = [(*node["pos"], *node["size"], node["type"]) for node in read(path)["nodes"]]
    for number, (x, y, width, height, kind) in enumerate(boxes):
        for left, top, wide, high, other in boxes[:number]:
            # The title bar of a node lies above its position.
            apart = x + width <= left or left + wide <= x or y + height + 30 <= top or top + high + 30 <= y
            assert apart, f"{kind} lies over {other}"


@editor
def test_a_graph_is_small_enough_to_be_read_when_opened(path: Path) -> None:
    nodes = read(path)["nodes"]
    left, top = (min(node["pos"][axis] for node in nodes) for axis in (0, 1))
    right, bottom = (max(node["pos"][axis] + node["size"][axis] for node in nodes) for axis in (0, 1))
    assert right - left <= MAX_WIDTH <= 1900
    assert bottom - top + 30 <= MAX_HEIGHT


@editor
def test_notes_stand_below_and_previews_cover_nothing(path: Path) -> None:
    nodes = read(path)["nodes"]
    notes = [node for node in nodes if node["type"] in NOTES]
    others = [node for node in nodes if node not in notes]
    assert min(node["pos"][1] for node in notes) > max(node["pos"][1] + node["size"][1] for node in others)
    for sampler in others:
        if sampler["type"] in SAMPLERS:
            (x, y), (width, height) = sampler["pos"], sampler["size"]
            for node in nodes:
                beside = node["pos"][0] >= x + width or x >= node["pos"][0] + node["size"][0]
                # The title bar of a node lies above its position.
                free = node["pos"][1] - 30 - (y + height)
                assert beside or node["pos"][1] <= y or free >= PREVIEW_ROOM - 30 >= 150, node["type"]


@editor
def test_nodes_say_what_they_are_of(path: Path) -> None:
    """Ours or core's, so that nobody is sent looking for a third pack."""
    for node in read(path)["nodes"]:
        if node["type"] in NOTES:
            continue
        properties = node["properties"]
        assert properties["cnr_id"] == ("dynamicrafter-studio" if node["type"] in OURS else "comfy-core")
        assert properties["Node name for S&R"] == node["type"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", properties["ver"])
        assert node["mode"] == 0


@editor
def test_a_note_says_what_to_change(path: Path) -> None:
    notes = {
        node["title"]: node["widgets_values"][0] for node in read(path)["nodes"] if node["type"] in NOTES
    }
    assert notes["What to change"].startswith("## ")
    assert ("needs no download" in notes["Your own images"]) == (path.stem not in RELEASED)
    if path.stem in PEOPLE:
        assert "SDPose" in notes["Your own poses"]
        return
    more = notes["Motion, size, memory"]
    assert all(word in more for word in ("motion", "multiples of 64", "16 frames", "--novram"))


@pytest.mark.parametrize("path", [*EDITOR, *API], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_nothing_points_into_a_machine(path: Path) -> None:
    assert [text for text in texts(read(path)) if MACHINE_PATH.search(text)] == []


@pytest.mark.parametrize("text", ["/home/a/b", "C:\\a", "look in ~/models", "(/mnt/x)", "file:///a"])
def test_a_path_of_a_machine_is_noticed(text: str) -> None:
    assert MACHINE_PATH.search(text)


@editor
def test_downloads_come_from_the_catalogue(path: Path) -> None:
    """The editor offers a file whose name a widget holds; a graph of a released model holds all that it needs."""
    nodes = read(path)["nodes"]
    known = {release.url: release for release in RELEASES}
    offered = [(node, model) for node in nodes for model in node["properties"].get("models", [])]
    assert bool(offered) == (path.stem in DOWNLOADING)
    of_core = [
        model for _, model in offered if model in [one.offer for one in (*CORE_MODELS, *CONTROL_MODELS)]
    ]
    needed: set[str] = set()
    for node, model in offered:
        if model in of_core:
            assert model["name"] in node["widgets_values"]
            continue
        release = known[model["url"]]
        assert model["directory"] == ("text_encoders" if release.kind == "towers" else "checkpoints")
        assert model["name"] == release.saved_as == Path(model["url"]).name
        assert model["name"] in node["widgets_values"]
        assert release.sha256 is not None
        needed |= {release.name, *release.requires}
        if release.variant is not None:
            assert release.variant in node["widgets_values"], "the weights do not tell it"
            assert release.size_gb == min(one.size_gb for one in RELEASES if one.variant == release.variant)
    assert {known[model["url"]].name for _, model in offered if model not in of_core} == needed
    notes = "\n".join(node["widgets_values"][0] for node in nodes if node["type"] in NOTES)
    assert all(f"[{model['name']}]({model['url']})" in notes for _, model in offered)


@api
def test_only_downloaded_models_want_files(path: Path) -> None:
    """All others run right after installation: the built-in model, pictures of the pack, an empty input folder."""
    prompt = read(path)
    wanted = {text for node in prompt.values() for text in texts(node["inputs"]) if text.endswith(WEIGHTS)}
    offered = read(WORKFLOWS / path.name)["nodes"]
    assert wanted == {model["name"] for node in offered for model in node["properties"].get("models", [])}
    kinds = {node["class_type"] for node in prompt.values()}
    assert "LoadImage" not in kinds
    assert ("LoadVideo" in kinds) == (path.stem == OF_VIDEO)
    for node in prompt.values():
        if node["class_type"] == "DynamiCrafterSamplePicture":
            assert (WORKFLOWS.parent / "pictures" / f"{node['inputs']['picture']}.png").is_file()


@api
def test_numbers_are_left_to_the_model(path: Path) -> None:
    """So that a released model needs no other change than its name, and no number of tiny is written anywhere."""
    prompt = read(path)
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if name == "eta" and path.stem in PEOPLE:
                assert value == 0  # No model of persons has another.
            elif node["class_type"] == "FrameInterpolate":
                continue  # Its multiplier is one of frames.
            elif name in ("steps", "cfg", "cfg_conds", "cfg_cond2_negative", "multiplier", "eta", "fs"):
                left = 0 if name in ("steps", "fs") else -1
                assert value == left or prompt[value[0]]["class_type"] == "DynamiCrafterPreset", name


@api
def test_prompts_speak_of_what_the_picture_shows(path: Path) -> None:
    prompt = read(path)
    pictures = {
        node["inputs"]["picture"].split("_left")[0].split("_right")[0].replace("_", " ")
        for node in prompt.values()
        if node["class_type"] == "DynamiCrafterSamplePicture"
    }
    texts_of = [node["inputs"].get(name) for node in prompt.values() for name in ("prompt", "prompts")]
    # Parts of a long clip begin with their frame.
    parts = [part for text in texts_of if isinstance(text, str) for part in re.split(r"[|\n]", text) if part]
    parts += [
        part
        for node in prompt.values()
        for part in re.findall("prompt: (.+)", node["inputs"].get("story", ""))
    ]
    said = {re.sub(r"^\s*(\d+:)?", "", part).strip() for part in parts}
    if path.stem in PEOPLE:
        assert (pictures, said) == ({"character"}, set())
        return
    kinds = {node["class_type"] for node in prompt.values()}
    assert said or kinds & {"DynamiCrafterSuggest", "DynamiCrafterDirectorPlan"}
    if path.stem in RELEASED:
        # A hill by day and by dusk is one subject.
        (subject,) = {picture.split()[0] for picture in pictures}
        assert all(subject in text for text in said)
    else:
        (subject,) = pictures
        assert all(re.fullmatch(f"a {subject} moves (left|right|up|down)", text) for text in said)


@editor
def test_a_place_for_ones_own_picture_lies_ready(path: Path) -> None:
    graph = read(path)
    used = in_use(graph)
    spare = [node for node in graph["nodes"] if node["type"] == "LoadImage" and node["id"] not in used]
    assert spare
    spare += [node for node in graph["nodes"] if node["type"] == "LoadVideo"]
    notes = "\n".join(node["widgets_values"][0] for node in graph["nodes"] if node["type"] in NOTES)
    for node in spare:
        assert node["title"].startswith("Your own")
        # A name of a file that is not there would be an error of a graph just opened.
        assert node["widgets_values"] == ["", "image"]
    assert "**Your own image**" in notes


@api
def test_api_graphs_end_in_a_clip(path: Path) -> None:
    prompt = read(path)
    assert [node for node in prompt.values() if node["class_type"] == "SaveVideo"]
    for node in prompt.values():
        for value in node["inputs"].values():
            assert not isinstance(value, list) or value[0] in prompt


@editor
def test_a_card_shows_the_clip(path: Path) -> None:
    """It begins with the picture that the graph begins with, and moves unless the graph needs a download."""
    prompt = read(WORKFLOWS / "api" / path.name)
    names = [node["inputs"]["picture"] for node in prompt.values() if "picture" in node["inputs"]]
    with Image.open(path.with_suffix(".jpg")) as card:
        assert (card.format, card.size) == ("WEBP", (SIDE, SIDE))
        count: int = getattr(card, "n_frames", 1)
        assert count == len(names) if path.stem in RELEASED else count >= 15
        frames: list[Image.Image] = []
        for number in range(count):
            card.seek(number)
            frames.append(card.convert("RGB"))
    assert path.with_suffix(".jpg").stat().st_size < 60_000
    with Image.open(WORKFLOWS.parent / "pictures" / f"{names[0]}.png") as picture:
        first = ImageOps.fit(picture.convert("RGB"), (SIDE, SIDE))
    # A character begins in its first pose, not as in its picture.
    assert apart(frames[0], first) < (40 if path.stem in PEOPLE else 20)
    if count > 1:
        assert max(apart(frames[0], frame) for frame in frames) > 3


def apart(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures, in levels of 255."""
    mean = ImageStat.Stat(ImageChops.difference(one, other)).mean
    return sum(mean) / len(mean)
