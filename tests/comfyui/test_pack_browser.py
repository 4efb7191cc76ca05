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
HELP = sorted((REPOSITORY / "web" / "docs").glob("*.md"))
PACK = "dynamicrafter-pack"
FOR_DOWNLOADED = "pruned_checkpoint_with_core_loaders"
"""The one template that opens with a released model."""


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

    running = start_server(copy_pack(REPOSITORY, tmp_path_factory.mktemp("browser") / PACK))
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


def test_all_templates_are_listed(editor: Editor) -> None:
    assert sorted(editor.template_names(PACK)) == [template.stem for template in TEMPLATES]
    assert len(TEMPLATES) >= 8


def test_every_template_opens_without_a_red_node(editor: Editor) -> None:
    """With nothing in the input folder, where the place for one's own picture names no file."""
    for template in TEMPLATES:
        if template.stem != FOR_DOWNLOADED:
            opens_whole(editor, template)


def test_the_one_for_downloaded_files_opens_with_the_picture_of_a_new_comfyui(
    open_editor: Callable[[Server], Editor], server: Server
) -> None:
    with server.client() as client:
        client.upload_image(server.host.folder / "input" / "example.png", "example.png")
    try:
        opens_whole(open_editor(server), REPOSITORY / "workflows" / f"{FOR_DOWNLOADED}.json")
    finally:
        (server.base / "input" / "example.png").unlink()


def opens_whole(editor: Editor, template: Path) -> None:
    """A template opens by its card with all of its nodes, and nothing is wrong with them."""
    editor.open_template(PACK, template.stem)
    assert editor.problems() == [], template.stem
    shown = {node["type"] for node in editor.nodes()}
    assert shown == {node["type"] for node in graph_of(template)["nodes"]}
    editor.fit_view()
    keep(editor, template.stem)


def test_the_one_node_start_makes_a_clip_with_the_mouse(editor: Editor) -> None:
    """As it opens, nothing set; the sample picture is shown where it comes from."""
    editor.open_template(PACK, "animate_one_node")
    editor.run()
    assert len(editor.wait_for_images("DynamiCrafterSamplePicture", timeout=300)) == 1
    video = editor.wait_for_video(timeout=300)
    assert (video["width"], video["height"]) == (64, 64)
    assert video["duration"] == pytest.approx(16 / 8)
    assert editor.problems() == []
    editor.fit_view()
    keep(editor, "one_node_result")


def shown_on(editor: Editor, node_type: str, script: str) -> Any:
    """What a script finds on the first node of a type, called ``node`` in it."""
    find = (
        f"() => {{ const node = app.graph.nodes.find(node => node.type === '{node_type}'); return {script} }}"
    )
    return editor.page.evaluate(find)


NOTE = "[data-testid='dynamicrafter_notes']"
PLAYING = """() => [...document.querySelectorAll('img')].map(image => image.src)
  .find(source => source.includes('/view?filename=dynamicrafter_') && source.includes('.webp'))"""


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes_2"])
def test_the_node_plays_its_clip_and_says_what_tiny_does_not_know(editor: Editor, vue: bool) -> None:
    """In both ways of drawing nodes: the clip takes the place of the last preview, and the note goes with its cause."""
    editor.open({"Comfy.VueNodes.Enabled": vue, "Comfy.Execution.PreviewMethod": "latent2rgb"})
    editor.open_template(PACK, "animate_one_node")
    editor.set_widget("DynamiCrafterAnimate", "prompt", f"boats in a harbour {vue}")
    editor.set_widget("DynamiCrafterSamplePicture", "picture", "harbour")
    editor.run()
    editor.page.wait_for_function(PLAYING, timeout=300_000)
    note = editor.page.locator(NOTE)
    note.wait_for()
    said = note.inner_text()
    assert "does not know the words boats, in, harbour" in said
    assert "cannot show this image" in said
    editor.fit_view()
    keep(editor, f"note_{'nodes_2' if vue else 'canvas'}")
    editor.set_widget("DynamiCrafterAnimate", "prompt", "a red circle moves down")
    editor.set_widget("DynamiCrafterSamplePicture", "picture", "red_circle")
    before = editor.page.evaluate(PLAYING)
    editor.run()
    editor.page.wait_for_function(
        f"before => (({PLAYING})() ?? before) !== before", arg=before, timeout=300_000
    )
    note.wait_for(state="detached")
    editor.wait_for_video(timeout=300)
    # The preview would be shown by an address that begins with blob:.
    sources = shown_on(editor, "DynamiCrafterAnimate", "(node.imgs ?? []).map(image => image.src)")
    assert not [source for source in sources if source.startswith("blob:")]
    assert not app_previews(editor)
    keep(editor, f"clip_{'nodes_2' if vue else 'canvas'}")


def app_previews(editor: Editor) -> list[str]:
    """Previews that the editor keeps for the node."""
    return shown_on(editor, "DynamiCrafterAnimate", "[...(app.nodePreviewImages[node.id] ?? [])]")


@pytest.mark.parametrize(
    ("language", "model", "fit"),
    [
        ("en", "tiny: coloured shapes 64x64, built in", "crop"),
        ("zh", "tiny：64x64 彩色图形，内置", "crop（裁剪填满）"),
    ],
)
def test_choices_have_labels_and_keep_their_values(
    editor: Editor, language: str, model: str, fit: str
) -> None:
    editor.open({"Comfy.Locale": language})
    editor.page.evaluate(
        "() => { app.graph.clear(); app.graph.add(LiteGraph.createNode('DynamiCrafterAnimate')) }"
    )
    shown = shown_on(
        editor,
        "DynamiCrafterAnimate",
        "Object.fromEntries(node.widgets.filter(widget => widget.type === 'combo')"
        ".map(widget => [widget.name, [widget.value, widget.options.getOptionLabel?.(widget.value)]]))",
    )
    assert shown["checkpoint"] == ["tiny (built in)", model]
    assert shown["fit"] == ["crop", fit]
    editor.open({"Comfy.Locale": "en"})


def test_a_long_list_of_files_keeps_its_filter(editor: Editor) -> None:
    """The editor's menu of labels has none."""
    editor.open_template(PACK, "animate_one_node")
    script = """() => {
      const widget = node.widgets.find(widget => widget.name === 'checkpoint');
      const short = Boolean(widget.options.getOptionLabel);
      widget.options.values = [...Array(21).keys()].map(String);
      return [short, Boolean(widget.options.getOptionLabel)];
    }"""
    assert shown_on(editor, "DynamiCrafterAnimate", f"({script})()") == [True, False]


def test_the_search_for_animate_finds_the_one_node_start_first(editor: Editor) -> None:
    # The graph that the editor opens with is loaded after its page.
    editor.open_template(PACK, "animate_one_node")
    editor.page.evaluate("() => { app.graph.clear(); app.canvas.draw(true, true) }")
    editor.page.mouse.dblclick(700, 500)
    editor.page.locator("input:focus").fill("animate")
    first = "document.querySelector(\"[data-testid='result-item']\")?.innerText"
    editor.page.wait_for_function(f"() => {first}?.startsWith('Animate (DynamiCrafter)')", timeout=30_000)
    keep(editor, "search")


@pytest.mark.parametrize("page", HELP, ids=[page.stem for page in HELP])
def test_the_help_page_of_each_node_opens(editor: Editor, page: Path) -> None:
    editor.open_template(PACK, template_with(page.stem))
    shown = " ".join(editor.open_help(page.stem).split())
    first_sentence = next(
        line for line in page.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    )
    assert " ".join(first_sentence.split()[:5]).replace("*", "").replace("`", "") in shown
    keep(editor, f"help_{page.stem}")
