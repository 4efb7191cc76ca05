// What the editor shows of our nodes beyond their schemas: labels of choices, notes about a run, and finished clips.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NOTES = "dynamicrafter_notes";
const CLIP = "$$comfy_animation_preview"; // The editor's own widget of an animated image.
const CLIP_HEIGHT = 220;
const LONG_LIST = 20;

/** Texts of our nodes by language and node type, as in locales/<language>/nodeDefs.json. */
let texts = {};

/** The label of a choice in the user's language; the value itself is what workflows contain. */
function label(type, input, value) {
  const language = app.extensionManager?.setting?.get("Comfy.Locale");
  const of = (known) => known?.nodeDefs?.[type]?.inputs?.[input]?.options?.[value];
  return of(texts[language]) ?? of(texts.en) ?? value;
}

/** Other labels of some values of a widget, in place of those of showLabels. */
const others = new WeakMap();

/** Label some values of a widget, those for which `labelOf` is not undefined; null ends that. */
export function labelOthers(widget, labelOf) {
  if (labelOf) others.set(widget, labelOf);
  else others.delete(widget);
}

/** Label the choices of a widget. A menu of labels has no filter, so long lists of files stay as they are. */
function showLabels(widget, labelOf) {
  const get = () => {
    const other = others.get(widget);
    if (other) return (value) => other(value) ?? labelOf(value);
    return widget.options.values?.length > LONG_LIST ? undefined : labelOf;
  };
  Object.defineProperty(widget.options, "getOptionLabel", { get, configurable: true, enumerable: true });
}

/** The number of the run, and the notes of each node with the run that they are of. */
let run = 0;
const noted = new WeakMap();

/**
 * Add what was reported for a node to its notes of this run, which replace those of the run before. A node that
 * consists of others, such as a story of several clips, gets the reports of all of them, one after the other.
 */
function addNotes(node, reported) {
  const before = noted.get(node);
  const known = before?.run === run ? before.notes : [];
  const notes = [...new Set([...known, ...reported])];
  noted.set(node, { run, notes });
  if (before?.run !== run || notes.length > known.length) showNotes(node, notes);
}

/** Show notes on a node instead of those that are there. */
function showNotes(node, notes) {
  const old = node.widgets?.findIndex((widget) => widget.name === NOTES) ?? -1;
  if (old >= 0) {
    node.widgets[old].onRemove?.();
    node.widgets.splice(old, 1);
  }
  if (notes.length > 0) {
    const box = document.createElement("div");
    box.textContent = notes.join("\n\n");
    box.dataset.testid = NOTES;
    Object.assign(box.style, {
      overflow: "auto", padding: "6px 8px", borderRadius: "4px", whiteSpace: "pre-wrap",
      fontSize: "12px", lineHeight: "1.35", color: "#f5e6c8", background: "#5a4415",
    });
    const options = { serialize: false, hideOnZoom: false, getMinHeight: () => 100, getMaxHeight: () => 160 };
    node.addDOMWidget(NOTES, NOTES, box, options).serialize = false;
  }
  node.setDirtyCanvas(true, true);
}

/** Remove the last preview, which the editor would go on showing on a node that consists of others. */
function removePreview(node) {
  const inner = node.graph?.isRootGraph === false;
  const place = inner ? `${node.graph.id}:${node.id}` : String(node.id);
  const page = document.getElementById("vue-app")?.__vue_app__;
  const store = page?.config.globalProperties.$pinia?._s.get("nodeOutput");
  if (store?.revokePreviewsByLocatorId) store.revokePreviewsByLocatorId(place);
  else delete app.nodePreviewImages?.[place];
}

/** Make a node taller by its first clip, once the editor has drawn it. */
function makeRoom(node) {
  const clip = node.widgets?.find((widget) => widget.name === CLIP);
  if (!clip || clip.hasRoom) return;
  clip.hasRoom = true;
  clip.options.getMinHeight = () => CLIP_HEIGHT;
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
}

app.registerExtension({
  name: "dynamicrafter.editor",

  async setup() {
    api.addEventListener("execution_start", () => run++);
    texts = await (await api.fetchApi("/i18n")).json();
  },

  nodeCreated(node) {
    const type = node.comfyClass;
    if (!type?.startsWith("DynamiCrafter")) return;
    for (const widget of node.widgets ?? []) {
      if (widget.type === "combo") showLabels(widget, (value) => label(type, widget.name, value));
    }
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      if (output?.[NOTES]) addNotes(this, output[NOTES]);
      if (output?.animated?.[0]) {
        removePreview(this);
        setTimeout(() => makeRoom(this), 500);
      }
    };
  },
});
