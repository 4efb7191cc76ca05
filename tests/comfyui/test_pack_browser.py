"""The pack in the real editor: every template opens without a red node, a clip is made with the mouse, help opens.

With ``DYNAMICRAFTER_SCREENSHOTS`` set to a folder, pictures of the editor are kept there; the README's were made so.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pack_graphs import NEWER, write_clip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from comfyui_browser import Editor
    from comfyui_server import Server
    from playwright.sync_api import Browser, Locator

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((REPOSITORY / "workflows").glob("*.json"))
BLUEPRINTS = sorted((REPOSITORY / "subgraphs").glob("*.json"))
HELP = sorted((REPOSITORY / "web" / "docs").glob("*.md"))
PACK = "dynamicrafter-pack"
START = "DynamiCrafter animate picture - image to video in one node"
OF_VIDEO = "DynamiCrafter person SDPose - dance video to character, 2 GB download"
STORY = "DynamiCrafter story - three scenes with sound"
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


@pytest.fixture(scope="module")
def opened(browser: Browser, server: Server) -> Iterator[Editor]:
    from comfyui_browser import Editor

    shared = Editor(browser, server.url, width=1600, height=950)
    shared.open()
    yield shared
    shared.close()
    assert shared.script_errors == []


@pytest.fixture
def editor(opened: Editor) -> Iterator[Editor]:
    """One for all tests, since opening takes seconds: with the usual settings, and whatever graph was open before.

    A test that opens it with settings of its own takes ``opened``.
    """
    if opened.settings:
        opened.open()
    # What the test before left open.
    opened.page.keyboard.press("Escape")
    yield opened
    errors, opened.script_errors = opened.script_errors, []
    assert errors == []


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


def test_a_search_in_all_templates_finds_them(editor: Editor) -> None:
    for words in ("dynamicrafter", "animate picture", "image to video", "interpolation", "loop"):
        found = editor.search_templates(words)
        assert [name for name in found if name.startswith("DynamiCrafter")], (words, found)
        if words in ("dynamicrafter", "animate picture"):
            assert START in found


def test_cards_show_a_square_clip(editor: Editor) -> None:
    sizes = editor.template_pictures(PACK)
    assert set(sizes) == {template.stem for template in TEMPLATES}
    assert set(sizes.values()) == {(320, 320)}
    keep(editor, "cards")


def test_every_template_opens_readable_and_without_a_red_node(editor: Editor) -> None:
    """With nothing in the input folder, where the place for one's own picture names no file."""
    known = set(editor.page.evaluate("() => Object.keys(LiteGraph.registered_node_types)"))
    for number, template in enumerate(TEMPLATES):
        if NEWER & {node["type"] for node in graph_of(template)["nodes"]} <= known:
            opens_whole(editor, template, by_card=number % 5 == 0)


def test_a_clip_of_ones_own_is_chosen_with_the_mouse(editor: Editor, tmp_path: Path) -> None:
    """The place for it names no file before, and shows the clip after."""
    if not editor.page.evaluate("name => name in LiteGraph.registered_node_types", "SDPoseKeypointExtractor"):
        pytest.skip("this host has no SDPoseKeypointExtractor")
    editor.open_template(PACK, OF_VIDEO)
    with editor.page.expect_file_chooser() as chooser:
        editor.click_widget("LoadVideo", "upload")
    chooser.value.set_files(write_clip(tmp_path / "own_dance.mp4"))
    editor.page.wait_for_function(
        "() => app.graph.nodes.find(node => node.type === 'LoadVideo').widgets[0].value === 'own_dance.mp4'"
    )
    assert editor.problems() == []
    assert overlapping(editor) == []
    keep(editor, "own_clip")


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_notes_are_legible_in_both_themes(opened: Editor, theme: str) -> None:
    opened.open({"Comfy.ColorPalette": theme})
    opened.open_template(PACK, START)
    text, links = opened.page.evaluate(CONTRAST)
    keep(opened, f"notes_{theme}")
    assert text >= 4.5
    assert links >= 3


def opens_whole(editor: Editor, template: Path, *, by_card: bool = True) -> None:
    """A template opens, by its card or faster, with all of its nodes, and nothing is wrong with them."""
    if by_card:
        editor.open_template(PACK, template.stem)
    else:
        editor.page.evaluate("graph => app.loadGraphData(graph)", graph_of(template))
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
    (ksampler,) = (template for template in TEMPLATES if "KSampler" in template.stem)
    editor.page.evaluate("graph => app.loadGraphData(graph)", graph_of(ksampler))
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
def test_the_node_plays_its_clip_and_says_what_tiny_does_not_know(opened: Editor, vue: bool) -> None:
    """In both ways of drawing nodes: the clip takes the place of the last preview, and the note goes with its cause."""
    opened.open({"Comfy.VueNodes.Enabled": vue, "Comfy.Execution.PreviewMethod": "latent2rgb"})
    opened.open_template(PACK, START)
    opened.set_widget("DynamiCrafterAnimate", "prompt", f"boats in a harbour {vue}")
    opened.set_widget("DynamiCrafterSamplePicture", "picture", "harbour")
    opened.run()
    opened.page.wait_for_function(PLAYING, timeout=300_000)
    note = opened.page.locator(NOTE)
    note.wait_for()
    said = note.inner_text()
    assert "does not know the words boats, in, harbour" in said
    assert "cannot show this image" in said
    opened.fit_view()
    keep(opened, f"note_{'nodes_2' if vue else 'canvas'}")
    opened.set_widget("DynamiCrafterAnimate", "prompt", "a red circle moves down")
    opened.set_widget("DynamiCrafterSamplePicture", "picture", "red_circle")
    before = opened.page.evaluate(PLAYING)
    opened.run()
    opened.page.wait_for_function(
        f"before => (({PLAYING})() ?? before) !== before", arg=before, timeout=300_000
    )
    note.wait_for(state="detached")
    opened.wait_for_video(timeout=300)
    # The preview would be shown by an address that begins with blob:.
    sources = shown_on(opened, "DynamiCrafterAnimate", "(node.imgs ?? []).map(image => image.src)")
    assert not [source for source in sources if source.startswith("blob:")]
    assert not app_previews(opened)
    keep(opened, f"clip_{'nodes_2' if vue else 'canvas'}")


def test_a_story_keeps_its_notes_beside_those_of_its_clips(editor: Editor) -> None:
    """Both are reported for the one node that is there: the story's own first, then those of each clip."""
    editor.open_template(PACK, STORY)
    scenes = "scenes:\n- {picture: 1, prompt: a red circle moves right, seconds: 0.5, sound: %s}\n"
    scenes += "- {prompt: %s, seconds: 0.5}"
    editor.set_widget("DynamiCrafterStory", "story", scenes % ("gibberish", "boats in a harbour"))
    editor.set_widget("DynamiCrafterStory", "steps", 1)
    editor.run()
    shown = editor.wait_for_video(timeout=300)
    told = editor.page.locator(NOTE).inner_text()
    assert "scene 1 has no sound, because none fits 'gibberish'" in told
    assert "It does not know the words boats, in, harbour." in told
    keep(editor, "notes_of_a_story")
    editor.set_widget("DynamiCrafterStory", "story", scenes % ("sea", "a red circle moves left"))
    editor.run()
    editor.wait_for_video(timeout=300, other_than=shown["src"])
    editor.page.locator(NOTE).wait_for(state="detached")


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
    opened: Editor, language: str, model: str, fit: str
) -> None:
    opened.open({"Comfy.Locale": language})
    opened.page.evaluate(
        "() => { app.graph.clear(); app.graph.add(LiteGraph.createNode('DynamiCrafterAnimate')) }"
    )
    shown = shown_on(
        opened,
        "DynamiCrafterAnimate",
        "Object.fromEntries(node.widgets.filter(widget => widget.type === 'combo')"
        ".map(widget => [widget.name, [widget.value, widget.options.getOptionLabel?.(widget.value)]]))",
    )
    assert shown["checkpoint"] == ["tiny (built in)", model]
    assert shown["fit"] == ["crop", fit]


def test_a_long_list_of_files_keeps_its_filter(editor: Editor) -> None:
    """The editor's menu of labels has none."""
    editor.open_template(PACK, START)
    script = """() => {
      const widget = node.widgets.find(widget => widget.name === 'checkpoint');
      const short = Boolean(widget.options.getOptionLabel);
      widget.options.values = [...Array(21).keys()].map(String);
      return [short, Boolean(widget.options.getOptionLabel)];
    }"""
    assert shown_on(editor, "DynamiCrafterAnimate", f"({script})()") == [True, False]


CAMERA = "DynamiCrafterCameraGuide"


def camera_pad(editor: Editor, path: str) -> Locator:
    """The pad on a new camera node, the only one, with a path."""
    editor.page.evaluate("type => { app.graph.clear(); app.graph.add(LiteGraph.createNode(type)) }", CAMERA)
    editor.set_widget(CAMERA, "path", path)
    # Fit View would cut off its end.
    editor.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset.splice(0, 2, 300, 100) }")
    editor.page.evaluate("() => app.canvas.draw(true, true)")
    return editor.page.get_by_test_id("dynamicrafter_path")


def drawn(
    editor: Editor, pad: Locator, box: int, *places: tuple[float, float]
) -> dict[str, tuple[float, ...]]:
    """Drag through places of the pad, box 0, or of the strip below it, 1, each from -1 to 1; the moves of the path."""
    from dynamicrafter.camera.choices import read_moves

    frame = pad.locator("rect").nth(box).bounding_box()
    assert frame is not None
    for number, (across, up) in enumerate(places):
        x, y = frame["x"] + frame["width"] * (1 + across) / 2, frame["y"] + frame["height"] * (1 - up) / 2
        editor.page.mouse.move(x, y, steps=8 if number else 1)
        if number == 0:
            editor.page.mouse.down()
    editor.page.mouse.up()
    return read_moves(editor.widget_text(CAMERA, "path"))


def test_a_camera_path_is_drawn_on_its_node(editor: Editor) -> None:
    """With the mouse and the keys; moves that cannot be drawn stay."""
    pad = camera_pad(editor, "truck:0.1")
    degree = {"abs": 0.5}
    straight = drawn(editor, pad, 0, (0.4, 0.5))
    ends = {"orbit": (0, pytest.approx(18, **degree)), "rise": (0, pytest.approx(22.5, **degree))}
    assert straight == {"truck": (0, 0.1), **ends}
    # Through a turn, and beyond the edge.
    stroke = drawn(editor, pad, 0, (0.05, 0), (0.5, 0.8), (0.5, -0.5), (1.5, -0.5))
    assert [len(stroke[name]) for name in ("orbit", "rise", "truck")] == [9, 9, 2]
    assert (stroke["orbit"][-1], stroke["rise"][-1]) == (45, pytest.approx(-22.5, **degree))
    assert max(stroke["rise"]) > 20
    # Closer, and back a little.
    dolly = drawn(editor, pad, 1, (-0.9, 0), (0, -1), (1, -0.5))["dolly"]
    assert [*dolly[::4]] == [0, pytest.approx(-0.5, abs=0.05), pytest.approx(-0.25, abs=0.05)]
    # One point is moved.
    moved = drawn(editor, pad, 0, (1, -0.5), (0.8, -0.2))
    assert moved["orbit"] == (*stroke["orbit"][:-1], pytest.approx(36, **degree))
    assert moved["dolly"] == dolly
    pad.press("ArrowRight")
    assert f",{moved['orbit'][-1] + 1:g}+" in editor.widget_text(CAMERA, "path")
    keep(editor, "camera_path")


def test_a_stored_camera_path_is_shown_on_its_node(editor: Editor) -> None:
    """Of a workflow, as the camera will take it; a text that is no path shows nothing and can be drawn over."""
    import torch

    from dynamicrafter.camera.geometry import Intrinsics
    from dynamicrafter.camera.paths import poses_along

    path = "orbit:0,10,25,-5,60+dolly:-0.2"
    camera_pad(editor, path)
    graph = editor.page.evaluate(
        "() => { const graph = app.graph.serialize(); app.graph.clear(); return graph }"
    )
    assert graph["nodes"][0]["widgets_values"][0] == path
    editor.page.evaluate("graph => app.loadGraphData(graph)", graph)
    pad = editor.page.locator(f"[data-testid=dynamicrafter_path][aria-label='path {path}']")
    points = pad.locator("polyline").first.get_attribute("points") or ""
    # The pad reaches twice as far as usual, since the path does.
    turned = [float(point.split(",")[0]) / 100 * 90 for point in points.split()]
    place = Intrinsics(64, 64, 32, 32)
    poses = poses_along(path.partition("+")[0], len(turned), 1, place, (64, 64), 0)
    truth = torch.atan2(poses[:, 0, 3], 1 - poses[:, 2, 3]).rad2deg()
    assert turned == pytest.approx(truth.tolist(), abs=1e-3)
    pad = camera_pad(editor, "poses.txt")
    assert {*(pad.locator("polyline").first.get_attribute("points") or "").split()} == {"0,0"}
    assert drawn(editor, pad, 0, (-0.4, 0))["orbit"] == (0, pytest.approx(-18, abs=0.5))


def test_the_search_for_animate_finds_the_one_node_start_first(editor: Editor) -> None:
    editor.page.evaluate("() => { app.graph.clear(); app.canvas.draw(true, true) }")
    editor.page.mouse.dblclick(700, 500)
    editor.page.locator("input:focus").fill("animate")
    first = "document.querySelector(\"[data-testid='result-item']\")?.innerText"
    editor.page.wait_for_function(f"() => {first}?.startsWith('Animate (DynamiCrafter)')", timeout=30_000)
    keep(editor, "search")


def test_help_pages_open(editor: Editor) -> None:
    """Some; that the server has the page of every node is tested where the pack is installed."""
    alone = "type => { app.graph.clear(); app.graph.add(LiteGraph.createNode(type)) }"
    for page in HELP[::7]:
        editor.page.evaluate(alone, page.stem)
        shown = " ".join(editor.open_help(page.stem).split())
        first_sentence = next(
            line
            for line in page.read_text(encoding="utf-8").splitlines()
            if line and not line.startswith("#")
        )
        beginning = " ".join(first_sentence.split()[:5]).replace("*", "").replace("`", "")
        assert beginning in shown, page.stem
        keep(editor, f"help_{page.stem}")
