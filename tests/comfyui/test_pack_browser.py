"""The pack in the real editor: every template opens without a red node, a clip is made with the mouse, help opens.

With ``DYNAMICRAFTER_SCREENSHOTS`` set to a folder, pictures of the editor are kept there; the README's were made so.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from comfyui_browser import Editor
    from comfyui_server import Server

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((REPOSITORY / "workflows").glob("*.json"))
BLUEPRINTS = sorted((REPOSITORY / "subgraphs").glob("*.json"))
HELP = sorted((REPOSITORY / "web" / "docs").glob("*.md"))
PACK = "dynamicrafter-pack"
START = "DynamiCrafter animate picture - image to video in one node"
BOXES = """() => app.graph.nodes.map(
  ({type, pos: [x, y], size: [width, height]}) => [type, x, y - 30, x + width, y + height]
)"""
# The least contrast of text, and of links, on the notes of the graph, as the editor draws both.
CONTRAST = """() => {
  const luminance = rgb => rgb.map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const colour = text => {
    const context = new OffscreenCanvas(1, 1).getContext('2d');
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const ground = luminance(colour(app.graph.nodes.find(node => node.type === 'MarkdownNote').renderingBgColor));
  const least = selector => Math.min(...[...document.querySelectorAll(selector)].map(element => {
    const ink = luminance(colour(getComputedStyle(element).color));
    return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
  }));
  return [least('.comfy-markdown p'), least('.comfy-markdown a')];
}"""


def graph_of(template: Path) -> dict[str, Any]:
    return json.loads(template.read_text(encoding="utf-8"))


def template_with(node_type: str) -> str:
    """Name of a template that holds a node of this type."""
    for template in TEMPLATES:
        if any(node["type"] == node_type for node in graph_of(template)["nodes"]):
            return template.stem
    raise AssertionError(f"no template holds a {node_type}")


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the files that templates offer to download, and an empty input folder."""
    from comfyui_server import copy_pack

    pack = copy_pack(REPOSITORY, tmp_path_factory.mktemp("browser") / PACK)
    running = start_server(pack, ("--preview-method", "latent2rgb"))
    for template in TEMPLATES:
        for node in graph_of(template)["nodes"]:
            for model in node["properties"].get("models", []):
                place = running.base / "models" / model["directory"] / model["name"]
                place.parent.mkdir(parents=True, exist_ok=True)
                # Opening a template only asks whether the file is there.
                place.touch()
    yield running


@pytest.fixture
def editor(open_editor: Callable[[Server], Editor], server: Server) -> Iterator[Editor]:
    opened = open_editor(server)
    yield opened
    assert opened.script_errors == []


def keep(editor: Editor, name: str) -> None:
    """A picture of the editor, where pictures are kept."""
    folder = os.environ.get("DYNAMICRAFTER_SCREENSHOTS")
    if folder:
        editor.screenshot(Path(folder) / f"{name}.png")


def test_all_templates_are_listed_and_the_start_is_the_first(editor: Editor) -> None:
    names = editor.template_names(PACK)
    assert sorted(names) == [template.stem for template in TEMPLATES]
    assert names[0] == START
    assert len(TEMPLATES) >= 8


@pytest.mark.parametrize(
    "words", ["dynamicrafter", "animate picture", "image to video", "interpolation", "loop"]
)
def test_a_search_in_all_templates_finds_them(editor: Editor, words: str) -> None:
    found = editor.search_templates(words)
    assert [name for name in found if name.startswith("DynamiCrafter")], found
    if words in ("dynamicrafter", "animate picture"):
        assert START in found


def test_cards_show_a_square_clip(editor: Editor) -> None:
    sizes = editor.template_pictures(PACK)
    assert set(sizes) == {template.stem for template in TEMPLATES}
    assert set(sizes.values()) == {(320, 320)}
    keep(editor, "cards")


def test_every_template_opens_readable_and_without_a_red_node(editor: Editor) -> None:
    """With nothing in the input folder, where the place for one's own picture names no file."""
    editor.page.set_viewport_size({"width": 1600, "height": 950})
    for template in TEMPLATES:
        opens_whole(editor, template)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_notes_are_legible_in_both_themes(
    open_editor: Callable[[Server], Editor], server: Server, theme: str
) -> None:
    editor = open_editor(server)
    editor.page.set_viewport_size({"width": 1600, "height": 950})
    editor.open({"Comfy.ColorPalette": theme})
    try:
        editor.open_template(PACK, START)
        text, links = editor.page.evaluate(CONTRAST)
        keep(editor, f"notes_{theme}")
        assert text >= 4.5
        assert links >= 3
    finally:
        editor.open({"Comfy.ColorPalette": "dark"})


def opens_whole(editor: Editor, template: Path) -> None:
    """A template opens by its card with all of its nodes, and nothing is wrong with them."""
    editor.open_template(PACK, template.stem)
    assert editor.problems() == [], template.stem
    shown = {node["type"] for node in editor.nodes()}
    assert shown == {node["type"] for node in graph_of(template)["nodes"]}
    # Below about 0.57 the editor draws boxes for letters.
    assert editor.page.evaluate("() => app.canvas.ds.scale") > 0.6, template.stem
    keep(editor, template.stem)


def overlapping(editor: Editor) -> list[tuple[str, str]]:
    """Pairs of nodes of which one covers the other, as large as they have become."""
    boxes = editor.page.evaluate(BOXES)
    return [
        (one[0], other[0])
        for number, one in enumerate(boxes)
        for other in boxes[:number]
        if one[1] < other[3] and other[1] < one[3] and one[2] < other[4] and other[2] < one[4]
    ]


def test_the_one_node_start_makes_a_clip_with_the_mouse(editor: Editor) -> None:
    """As it opens, nothing set; the sample picture is shown where it comes from."""
    editor.page.set_viewport_size({"width": 1600, "height": 950})
    editor.open_template(PACK, START)
    editor.run()
    assert len(editor.wait_for_images("DynamiCrafterSamplePicture", timeout=300)) == 1
    video = editor.wait_for_video(timeout=300)
    assert (video["width"], video["height"]) == (64, 64)
    assert video["duration"] == pytest.approx(16 / 8)
    assert editor.problems() == []
    assert overlapping(editor) == []
    editor.fit_view()
    keep(editor, "one_node_result")


def test_a_preview_covers_nothing(editor: Editor) -> None:
    editor.page.set_viewport_size({"width": 1600, "height": 950})
    (ksampler,) = (template for template in TEMPLATES if "KSampler" in template.stem)
    editor.open_template(PACK, ksampler.stem)
    editor.run()
    assert editor.wait_for_images("KSampler", timeout=300)
    assert overlapping(editor) == []
    keep(editor, "preview")
    editor.wait_for_video(timeout=300)
    assert overlapping(editor) == []


def test_blueprints_are_in_the_library_and_make_whole_prompts(editor: Editor, server: Server) -> None:
    with server.client() as client:
        listed = {entry["name"] for entry in client.get("/global_subgraphs").values()}
    for path in BLUEPRINTS:
        assert path.stem in listed
        editor.page.evaluate("graph => app.loadGraphData(graph)", graph_of(path))
        assert editor.problems() == []
        (inner,) = graph_of(path)["definitions"]["subgraphs"]
        prompt = editor.page.evaluate("async () => (await app.graphToPrompt()).output")
        assert sorted(node["class_type"] for node in prompt.values()) == sorted(
            node["type"] for node in inner["nodes"]
        )
        for node in prompt.values():
            if node["class_type"] == "DynamiCrafterCheckpointLoader":
                assert "pruned" in node["inputs"]["checkpoint"] and node["inputs"]["variant"] != "auto"
        # Values that are set outside arrive inside.
        editor.page.evaluate(
            "() => app.graph.nodes[0].widgets.find(widget => widget.name === 'prompt').value = 'waves'"
        )
        prompt = editor.page.evaluate("async () => (await app.graphToPrompt()).output")
        assert "waves" in [node["inputs"].get("prompt") for node in prompt.values()]
        keep(editor, path.stem)


@pytest.mark.parametrize("page", HELP, ids=[page.stem for page in HELP])
def test_the_help_page_of_each_node_opens(editor: Editor, page: Path) -> None:
    editor.open_template(PACK, template_with(page.stem))
    shown = " ".join(editor.open_help(page.stem).split())
    first_sentence = next(
        line for line in page.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    )
    assert " ".join(first_sentence.split()[:5]).replace("*", "").replace("`", "") in shown
    keep(editor, f"help_{page.stem}")
