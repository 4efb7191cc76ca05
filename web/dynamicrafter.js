// Downloads of released models by a button on the nodes, and the order of the templates.
// What a version of the editor lacks is left out.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { labelOthers } from "./editor.js";

const NODES = [
  "DynamiCrafterAnimate", "DynamiCrafterCheckpointLoader", "DynamiCrafterKeyframes", "DynamiCrafterStory",
];
const PACK = decodeURIComponent(new URL(".", import.meta.url).pathname.split("/").at(-2));
const POLL_MS = 500;

const buttons = new Map(); // node -> its button
let known = { files: {}, token: "", transfer: null };
let polling = false;

const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;

function bytesToGet(name) {
  const encoders = known.files[known.encoders];
  const more = known.files[name].encoders && !encoders.here ? encoders.bytes : 0;
  return known.files[name].bytes + more;
}

const isReleased = (name) => Object.hasOwn(known.files, name ?? "");
const isMissing = (name) => isReleased(name) && !known.files[name].here;
/** What the list calls a released file that is here in a subfolder, if a widget has its bare name. */
const isElsewhere = (name) => isReleased(name) && known.files[name].here && known.files[name].here !== name;
const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

async function send(path, method) {
  const headers = { "X-DynamiCrafter-Token": known.token };
  const answer = await api.fetchApi(`/dynamicrafter/${path}`, { method, headers });
  return answer.json();
}

function complain(detail) {
  app.extensionManager?.toast?.add({ severity: "error", summary: "DynamiCrafter", detail, life: 15000 });
}

function labelOf(name) {
  const transfer = known.transfer;
  if (transfer?.running) {
    const share = transfer.total ? Math.floor((100 * transfer.done) / transfer.total) : 0;
    const doing = transfer.stage === "checking" ? "Checking" : "Downloading";
    const what = transfer.file === known.encoders ? "encoders" : "model";
    return `${doing} ${what}: ${share} % of ${gigabytes(transfer.total ?? 0)} (cancel)`;
  }
  if (isElsewhere(name)) return `Use ${known.files[name].here}`;
  return isMissing(name) ? `Download ${gigabytes(bytesToGet(name))}` : "Download a model";
}

// The value of the widget stays the bare name. The size of a file that is not here stands before it, since the end of
// a long name is cut off.
function draw() {
  const transfer = known.transfer;
  for (const [node, { button }] of buttons) {
    const checkpoint = widgetOf(node, "checkpoint");
    button.label = labelOf(checkpoint.value);
    const label = (name) => (isMissing(name) ? `(${gigabytes(known.files[name].bytes)}) ${name}` : undefined);
    // Only while it is needed, since a list with labels has no field to filter it.
    labelOthers(checkpoint, isMissing(checkpoint.value) ? label : null);
    const busy = transfer?.running && transfer.total && transfer.name === node.dynamicrafterAsked;
    node.progress = busy ? transfer.done / transfer.total : undefined;
  }
  app.graph?.setDirtyCanvas(true, true);
}

async function refresh() {
  known = { ...known, ...(await send("files", "GET")) };
  draw();
}

// As the key R does, with the list of missing models where there is one.
async function refreshLists() {
  const commands = app.extensionManager?.command;
  if (commands?.execute) await commands.execute("Comfy.RefreshNodeDefinitions");
  else await app.refreshComboInNodes?.();
}

async function follow() {
  if (polling) return;
  polling = true;
  try {
    while ((known.transfer = await send("download", "GET"))?.running) {
      draw();
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    if (known.transfer?.error) complain(known.transfer.error);
    await refreshLists();
    await refresh();
    for (const node of buttons.keys()) {
      const asked = node.dynamicrafterAsked;
      delete node.dynamicrafterAsked;
      if (asked && !isMissing(asked)) select(node, known.files[asked].here);
    }
  } finally {
    polling = false;
    draw();
  }
}

const bare = (name) => String(name ?? "").split(/[\\/]/).at(-1);

// The weights of pruned files do not tell what they are, so a released one comes with its variant, which must not stay
// for another file.
function fitVariant(node, name) {
  const variant = widgetOf(node, "variant");
  const { before } = buttons.get(node);
  buttons.get(node).before = name;
  const own = known.files[bare(name)]?.variant;
  if (!variant) return;
  if (own) variant.value = own;
  else if (variant.value === known.files[bare(before)]?.variant) variant.value = "auto";
}

function select(node, name) {
  fitVariant(node, name);
  widgetOf(node, "checkpoint").value = name;
}

// The checkpoint of a node becomes what it has asked for once that is here.
async function download(node, name) {
  const { error } = await send(`download/${encodeURIComponent(name)}`, "POST");
  if (error) complain(error);
  else node.dynamicrafterAsked = name;
  await refresh();
  if (!error || known.transfer?.running) await follow();
}

async function press(node, event) {
  await refresh();
  if (known.transfer?.running) {
    const { error } = await send("cancel", "POST");
    if (error) complain(error);
    return follow();
  }
  const name = widgetOf(node, "checkpoint").value;
  if (isElsewhere(name)) return select(node, known.files[name].here), draw();
  if (isMissing(name)) return download(node, name);
  const offered = Object.keys(known.files).filter((file) => known.files[file].recommended && isMissing(file));
  const items = offered.map((file) => ({
    content: `${file} (${gigabytes(bytesToGet(file))})`,
    callback: () => void download(node, file),
  }));
  if (!items.length) return complain("All recommended models are here; select one in checkpoint.");
  new LiteGraph.ContextMenu(items, { event, title: "Download a model", className: "dark" });
}

function addButton(node) {
  const checkpoint = widgetOf(node, "checkpoint");
  if (!checkpoint || !node.addWidget) return;
  const callback = (value, canvas, owner, position, event) => void press(node, event).catch((error) => complain(String(error)));
  const button = node.addWidget("button", "dynamicrafter_download", null, callback, { serialize: false });
  button.serialize = false;
  button.label = "Download a model";
  buttons.set(node, { button, before: checkpoint.value });
  const changed = checkpoint.callback;
  checkpoint.callback = function (...values) {
    const result = changed?.apply(this, values);
    fitVariant(node, checkpoint.value);
    draw();
    return result;
  };
  const { onRemoved, onConfigure } = node;
  node.onRemoved = function (...values) {
    buttons.delete(node);
    return onRemoved?.apply(this, values);
  };
  node.onConfigure = function (...values) {
    const result = onConfigure?.apply(this, values);
    buttons.get(node).before = checkpoint.value;
    draw();
    return result;
  };
  draw();
}

app.registerExtension({
  name: "DynamiCrafter.Download",
  async setup() {
    await refresh().catch((error) => console.warn("DynamiCrafter: no downloads,", error));
    if (known.transfer?.running) void follow();
  },
  nodeCreated(node) {
    if (NODES.includes(node.comfyClass)) addButton(node);
  },
});

// The Templates dialog lists files in the order of the disk; here the one to start with comes first.
const listed = api.getWorkflowTemplates?.bind(api);
if (listed) {
  api.getWorkflowTemplates = async () => {
    const names = await listed();
    names[PACK]?.sort((a, b) => a.localeCompare(b));
    return names;
  };
}
