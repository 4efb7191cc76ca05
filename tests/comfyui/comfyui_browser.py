"""ComfyUI's real editor in a real browser: what a user does with the mouse, as functions."""

import base64
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chromium import READY_TIMEOUT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

# The help of a first visit and the map of the graph would lie over what a test looks at; the rest as it is installed,
# since the server keeps what was set before.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.ColorPalette": "dark",
    "Comfy.Locale": "en",
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Execution.PreviewMethod": "default",
}
CLICK_TIMEOUT = 10_000
HELP_TIMEOUT = 30_000

# Middle of the title bar of a node in page coordinates.
TITLE_POSITION = """type => {
  const node = app.graph.nodes.find(node => node.type === type);
  if (!node) return null;
  const canvas = app.canvas, box = canvas.canvas.getBoundingClientRect();
  const [x, y] = canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] - 12]);
  return [box.left + x, box.top + y];
}"""
# Middle of a widget in page coordinates.
WIDGET_POSITION = """([type, name]) => {
  const node = app.graph.nodes.find(node => node.type === type);
  const widget = node.widgets.find(widget => widget.name === name);
  const canvas = app.canvas, box = canvas.canvas.getBoundingClientRect();
  const [x, y] = canvas.ds.convertOffsetToCanvas(
    [node.pos[0] + node.size[0] / 2, node.pos[1] + (widget.y || widget.last_y) + 10]);
  return [box.left + x, box.top + y];
}"""
NODES = """() => app.graph.nodes.map(node => ({
  id: String(node.id), type: node.type, title: node.title, has_errors: Boolean(node.has_errors),
  missing: !LiteGraph.registered_node_types[node.type] && !app.graph.subgraphs?.has(node.type),
  widgets: (node.widgets ?? []).map(widget => widget.name),
}))"""
AT_REST = """async () => {
  const view = () => [app.canvas.ds.scale, ...app.canvas.ds.offset].join();
  const frame = () => new Promise(requestAnimationFrame);
  const before = view();
  await frame();
  await frame();
  return view() === before;
}"""
CARDS = "[data-testid^='template-workflow-']"
PATH_IN_FRONT = "() => app.extensionManager.workflow?.activeWorkflow?.path"
# A template that is opened again gets a number after its name.
IN_FRONT = """([name, before]) => {
  const shown = app.extensionManager.workflow?.activeWorkflow;
  return shown?.path !== before && shown?.filename.startsWith(name);
}"""
PREVIEWED = """type => {
  const node = app.graph.nodes.find(node => node.type === type);
  const images = node?.imgs ?? [];
  return images.length && images.every(image => image.complete) ? images.map(image => image.src) : null;
}"""
PICTURE_SIZE = """card => {
  const image = card.querySelector('img');
  return image?.complete && image.naturalWidth ? [image.naturalWidth, image.naturalHeight] : null;
}"""
PLAYABLE = """seen => {
  const videos = [...document.querySelectorAll('video')];
  const video = videos.find(video => video.readyState >= 2 && video.currentSrc !== seen);
  return video && {src: video.currentSrc, width: video.videoWidth, height: video.videoHeight,
                   duration: video.duration};
}"""
DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), character => character.charCodeAt(0));
  const dragged = new DataTransfer();
  dragged.items.add(new File([bytes], name, {type}));
  const event = new DragEvent('drop', {dataTransfer: dragged, bubbles: true, cancelable: true});
  app.canvas.canvas.dispatchEvent(event);
}"""
HELP_TEXT = """([before, same]) => {
  const text = document.querySelector('.node-help-content .markdown-content')?.innerText.trim();
  return text && (same || text !== before) ? text : null;
}"""
# The core nodes that need no registered type of their own in a saved graph.
BUILT_IN = ("Note", "MarkdownNote", "Reroute", "PrimitiveNode")


class Editor:
    """ComfyUI's editor at `url` in a page of its own.

    Public attributes: `page` (Playwright's), `script_errors` (exceptions that no script caught),
    `failed_requests` (`status url` of answers from 400 up), `settings` (those it was opened with).
    """

    def __init__(self, browser: "Browser", url: str, width: int = 1400, height: int = 900) -> None:
        self.url = url
        self.page: Page = browser.new_page(viewport={"width": width, "height": height}, locale="en-US")
        self.page.set_default_timeout(READY_TIMEOUT)
        self._help_type = self._help_text = ""
        self.script_errors: list[str] = []
        self.failed_requests: list[str] = []
        self.settings: dict[str, Any] = {}
        self.page.on("pageerror", lambda error: self.script_errors.append(str(error)))
        self.page.on("response", self._note_response)
        self._requested = self._answered = 0
        self.page.on("request", self._note_request)
        self.page.on("requestfinished", self._note_end)
        self.page.on("requestfailed", self._note_end)

    def _note_response(self, response: Any) -> None:
        if response.status >= 400:
            self.failed_requests.append(f"{response.status} {response.url}")

    def _note_request(self, request: Any) -> None:
        self._requested += 1

    def _note_end(self, request: Any) -> None:
        self._answered += 1

    def _wait_for_answers(self) -> None:
        """Return when the page has asked for nothing for half a second and has all answers.

        Playwright's own "networkidle" is of the page's first loading only.
        """
        deadline = time.monotonic() + READY_TIMEOUT / 1000
        seen, quiet = -1, 0
        while quiet < 5:
            assert time.monotonic() < deadline, "the editor asks the server without end"
            self.page.wait_for_timeout(100)
            quiet = quiet + 1 if self._requested == self._answered == seen else 0
            seen = self._requested

    def open(self, settings: dict[str, Any] | None = None) -> None:
        """Open the editor; return when its graph is ready. `settings` are its user settings by id."""
        self.settings = settings or {}
        answer = self.page.request.post(f"{self.url}/api/settings", data={**SETTINGS, **self.settings})
        assert answer.ok, f"settings were refused: {answer.status} {answer.text()}"
        self.page.goto(self.url)
        self.page.wait_for_function("() => window.app?.graph && window.app.extensionManager")
        self.page.get_by_test_id("queue-button").wait_for()

    def close(self) -> None:
        """Close the page."""
        self.page.close()

    # --- templates and what is wrong with a graph ---

    def open_template(self, pack: str, name: str) -> None:
        """Load a template by the Templates dialog: the pack under Extensions, then the card of this name."""
        from playwright.sync_api import TimeoutError

        before = self.page.evaluate(PATH_IN_FRONT)
        self.page.get_by_role("button", name="Templates", exact=True).click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(pack, exact=True).first.click()
        card = dialog.get_by_test_id(f"template-workflow-{name}")
        card.click()
        try:
            dialog.wait_for(state="hidden", timeout=CLICK_TIMEOUT)
        except TimeoutError:
            # The cards are drawn anew when a pack is chosen; a click can hit one that is about to go.
            with suppress(TimeoutError):
                card.click(timeout=CLICK_TIMEOUT)
            dialog.wait_for(state="hidden")
        # The tabs have no id in older frontends (1.35.9 to 1.39.19), the workflow in front has this name in all.
        self.page.wait_for_function(IN_FRONT, arg=[name, before])
        # Whether its models are there is asked of the server after the graph is shown.
        self._wait_for_answers()

    def template_names(self, pack: str) -> list[str]:
        """Names on the cards of a pack in the Templates dialog."""
        self.page.get_by_role("button", name="Templates", exact=True).click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(pack, exact=True).first.click()
        dialog.locator(CARDS).first.wait_for()
        # The cards are drawn anew when a pack is chosen.
        self._wait_for_answers()
        return self._leave_with_names(dialog)

    def search_templates(self, words: str) -> list[str]:
        """Names on the cards that the Templates dialog finds for words among all templates, best first."""
        self.page.get_by_role("button", name="Templates", exact=True).click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text("All Templates", exact=True).first.click()
        dialog.get_by_role("textbox").or_(dialog.get_by_role("combobox")).first.fill(words)
        # The dialog waits for the end of typing.
        self.page.wait_for_timeout(600)
        self._wait_for_answers()
        return self._leave_with_names(dialog)

    def _leave_with_names(self, dialog: "Locator") -> list[str]:
        """Close the Templates dialog; the names on its cards."""
        names: list[str] = dialog.locator(CARDS).evaluate_all(
            "cards => cards.map(card => card.dataset.testid)"
        )
        self.page.keyboard.press("Escape")
        dialog.wait_for(state="hidden")
        return [name.removeprefix("template-workflow-") for name in names]

    def template_pictures(self, pack: str) -> dict[str, tuple[int, int]]:
        """Width and height of the picture on each card of a pack, by name."""
        self.page.get_by_role("button", name="Templates", exact=True).click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(pack, exact=True).first.click()
        cards = dialog.locator(CARDS)
        cards.first.wait_for()
        self._wait_for_answers()
        sizes: dict[str, tuple[int, int]] = {}
        for card in cards.all():
            # Pictures are loaded when they come into view.
            card.scroll_into_view_if_needed()
            size = self.page.wait_for_function(PICTURE_SIZE, arg=card.element_handle()).json_value()
            sizes[str(card.get_attribute("data-testid")).removeprefix("template-workflow-")] = tuple(size)
        self._leave_with_names(dialog)
        return sizes

    def nodes(self) -> list[dict[str, Any]]:
        """Nodes of the graph: id, type, title, has_errors (red), missing (unknown type), widgets (names)."""
        return self.page.evaluate(NODES)

    def problems(self) -> list[str]:
        """Everything that looks wrong to a user: red or unknown nodes, error box, dialogs, error notices."""
        found: list[str] = []
        for node in self.nodes():
            if node["missing"] and node["type"] not in BUILT_IN:
                found.append(f"node {node['id']} is of the unknown type {node['type']}")
            elif node["has_errors"]:
                found.append(f"node {node['id']} ({node['type']}) is red")
        found += [f"error box: {text}" for text in self._texts(self.page.get_by_test_id("error-overlay"))]
        found += [f"dialog: {text}" for text in self._texts(self.page.get_by_role("dialog"))]
        found += [f"notice: {text}" for text in self._texts(self.page.locator(".p-toast-message-error"))]
        return found

    def _texts(self, elements: "Locator") -> list[str]:
        return [" ".join(element.inner_text().split()) for element in elements.all() if element.is_visible()]

    def drop_file(self, name: str, media_type: str, data: bytes) -> None:
        """Drop a file of this content on the graph."""
        self.page.evaluate(DROP, [name, media_type, base64.b64encode(data).decode()])

    # --- running ---

    def run(self) -> None:
        """Press Run with the mouse."""
        self.page.get_by_test_id("queue-button").click()

    def wait_for_video(self, timeout: float = 120.0, other_than: str = "") -> dict[str, Any]:
        """Wait until a result video, `other_than` the one from this address, can be played.

        Returns {src, width, height, duration (seconds)}.
        """
        return self.page.wait_for_function(PLAYABLE, arg=other_than, timeout=timeout * 1000).json_value()

    def wait_for_images(self, node_type: str, timeout: float = 120.0) -> list[str]:
        """Wait until a node shows pictures (results or previews); their addresses."""
        return self.page.wait_for_function(PREVIEWED, arg=node_type, timeout=timeout * 1000).json_value()

    def set_widget(self, node_type: str, name: str, value: Any) -> None:
        """Set a value on the first node of a type, as its input field would."""
        script = """([type, name, value]) => {
          const node = app.graph.nodes.find(node => node.type === type);
          const widget = node.widgets.find(widget => widget.name === name);
          widget.value = value;
          widget.callback?.(value);
        }"""
        self.page.evaluate(script, [node_type, name, value])

    def widget_text(self, node_type: str, name: str) -> str:
        """What a widget of the first node of a type shows: a button's label, a choice as it is drawn."""
        script = """([type, name]) => {
          const node = app.graph.nodes.find(node => node.type === type);
          const widget = node.widgets.find(widget => widget.name === name);
          return String(widget.type === 'button' ? widget.label : widget._displayValue ?? widget.value);
        }"""
        return self.page.evaluate(script, [node_type, name])

    def click_widget(self, node_type: str, name: str) -> None:
        """Click the middle of a widget of the first node of a type with the mouse."""
        self.page.mouse.click(*self.page.evaluate(WIDGET_POSITION, [node_type, name]))

    # --- help ---

    def select_node(self, node_type: str) -> None:
        """Click the title bar of the first node of a type, after all nodes are brought into view."""
        self.fit_view()
        position = self.page.evaluate(TITLE_POSITION, node_type)
        assert position is not None, f"the graph holds no {node_type}"
        self.page.mouse.click(*position)
        # By its class; older frontends give it no test id.
        self.page.locator(".selection-toolbox").wait_for()

    def open_help(self, node_type: str) -> str:
        """Select a node, press its info button and return the text of its help page.

        A node without a page shows a table of its inputs instead; that ends in Playwright's TimeoutError.
        """
        panel = self.page.get_by_test_id("properties-panel")
        if panel.is_visible():
            # It would cover nodes on the right.
            panel.get_by_role("button", name="Toggle properties panel").click()
            panel.wait_for(state="hidden")
        self.select_node(node_type)
        self.page.get_by_test_id("info-button").click()
        # The page of the node selected before stays until the new one has come.
        arguments = [self._help_text, self._help_type == node_type]
        text = self.page.wait_for_function(HELP_TEXT, arg=arguments, timeout=HELP_TIMEOUT).json_value()
        self._help_type, self._help_text = node_type, text
        return text

    # --- pictures ---

    def fit_view(self) -> None:
        """Zoom so that the whole graph is seen."""
        # With a selection, only that would be brought into view.
        self.page.evaluate("() => app.canvas.deselectAll()")
        self.page.get_by_role("button", name="Fit View").click()
        # The view glides to its place; it begins at once and takes 350 ms.
        self.page.wait_for_timeout(400)
        self.page.wait_for_function(AT_REST)

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
