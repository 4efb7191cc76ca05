// The path of DynamiCrafter Camera Guide, drawn on the node with the mouse or the keys. What is stored is the text of
// `path`, as dynamicrafter/camera/choices.py reads it; without this script the text is all there is.

import { app } from "../../scripts/app.js";

const LIMITS = { orbit: [-90, 90], rise: [-80, 80], dolly: [-0.9, 2] };
/** How far the pad reaches, what ViewCrafter's models know; doubled for a path that goes farther. */
const SPANS = { orbit: 45, rise: 45, dolly: 0.5 };
const KEYS = {
  ArrowLeft: ["orbit", -1], ArrowRight: ["orbit", 1], ArrowDown: ["rise", -1], ArrowUp: ["rise", 1],
  PageDown: ["dolly", -0.05], PageUp: ["dolly", 0.05],
};
/** A stroke becomes so many values. */
const STROKE = 9;
// The drawing: a pad of orbit and rise around 0, and below it a strip of the distance over the clip.
const WIDE = 100, HIGH = 50, STRIP = 73, STRIP_HIGH = 17, DOT = 6;

/** The values of each move, the first of which is 0; no moves for a text that is none. */
function read(text) {
  const moves = {};
  for (const part of String(text).split("+")) {
    const [, name, list] = /^\s*([a-z]+)\s*:(.+)$/.exec(part) ?? [];
    const values = list?.split(",").map((value) => (value.trim() ? Number(value) : NaN));
    if (!values?.every(Number.isFinite)) return {};
    moves[name] = values.length > 1 ? values : [0, ...values];
  }
  return moves;
}

function write(moves) {
  const moved = Object.entries(moves).filter(([, values]) => values.some(Boolean));
  return moved.map(([name, values]) => `${name}:${values.length > 2 ? values : values[1]}`).join("+") || "orbit:0";
}

/** The value after a part of the clip, 0 to 1, as dynamicrafter/camera/paths.py computes it. */
function valueAt(values, part) {
  const last = values.length - 1;
  const start = Math.min(Math.floor(part * last), last - 1);
  const t = part * last - start;
  const known = (k) => values[k] ?? (k < 0 ? 2 * values[0] - values[1] : 2 * values[last] - values[last - 1]);
  const [a, b, c, d] = [start - 1, start, start + 1, start + 2].map(known);
  if (last < 3) return b + (c - b) * t;
  return b + ((c - a) * t) / 2 + (a - 2.5 * b + 2 * c - d / 2) * t ** 2 + (1.5 * (b - c) + (d - a) / 2) * t ** 3;
}

/** Both curves as they are drawn: functions from a number of points, and the number that the values have. */
function curvesOf({ orbit = [0, 0], rise = [0, 0], dolly = [0, 0] }) {
  const span = (name, values) => {
    let reach = SPANS[name];
    while (reach < 90 && values.some((value) => Math.abs(value) > reach)) reach *= 2;
    return reach;
  };
  const spans = { orbit: span("orbit", orbit), rise: span("rise", rise), dolly: span("dolly", dolly) };
  const along = (point) => (count) => Array.from({ length: count }, (_, k) => point(k / (count - 1)));
  const pad = along((part) => (
    { x: (valueAt(orbit, part) / spans.orbit) * WIDE, y: (-valueAt(rise, part) / spans.rise) * HIGH }
  ));
  const strip = along((part) => (
    { x: (2 * part - 1) * WIDE, y: STRIP - (valueAt(dolly, part) / spans.dolly) * STRIP_HIGH }
  ));
  return { spans, pad, dots: pad(Math.max(orbit.length, rise.length)), strip, stripDots: strip(dolly.length) };
}

function drawing(moves) {
  const { spans, pad, dots, strip, stripDots } = curvesOf(moves);
  const box = (y, high) => `<rect x="${-WIDE}" y="${y - high}" width="${2 * WIDE}" height="${2 * high}" rx="2"
    fill="var(--comfy-input-bg)" stroke="var(--border-color)"/>`;
  const label = (x, y, text) => `<text x="${x}" y="${y}" font-size="9">${text}</text>`;
  const curve = (points, ends) => {
    const line = points.map(({ x, y }) => `${x},${y}`).join(" ");
    const marks = ends.slice(1).map(({ x, y }) => `<circle cx="${x}" cy="${y}" r="2"/>`).join("");
    const { x, y } = ends.at(-1);
    return `<polyline points="${line}" fill="none" stroke="currentColor" stroke-width="1.5"/>${marks}
      <circle cx="${x}" cy="${y}" r="3.5"/>`;
  };
  return `<g fill="currentColor">${box(0, HIGH)}${box(STRIP, STRIP_HIGH)}
    <path d="M${-WIDE} 0H${WIDE}M0 ${-HIGH}V${HIGH}M${-WIDE} ${STRIP}H${WIDE}" stroke="var(--border-color)"/>
    ${label(WIDE - 54, HIGH - 4, `orbit ±${spans.orbit}°`)}${label(3 - WIDE, 10 - HIGH, `rise ±${spans.rise}°`)}
    ${label(3 - WIDE, STRIP + 10 - STRIP_HIGH, `dolly ±${spans.dolly}`)}
    <circle r="3.5" fill="none" stroke="currentColor"/>${curve(pad(65), dots)}${curve(strip(65), stripDots)}</g>`;
}

/** STROKE places evenly along a trail up to `end`; each place of the trail has its own `along`. */
function evenly(trail, end) {
  return Array.from({ length: STROKE }, (_, k) => {
    const along = (end * k) / (STROKE - 1);
    const next = trail.findIndex((place) => place.along >= along);
    // The first, or the last if there is none.
    if (next < 1) return trail.at(next);
    const [a, b] = [trail[next - 1], trail[next]];
    const part = (along - a.along) / (b.along - a.along);
    return { x: a.x + (b.x - a.x) * part, y: a.y + (b.y - a.y) * part };
  });
}

const within = (value, low, high) => Math.min(Math.max(value, low), high);
const rounded = (name, value) => Number(within(value, ...LIMITS[name]).toFixed(name === "dolly" ? 2 : 1));

/** What a drag does, as a function of where it is: moves a dot, goes straight to a click, or follows a stroke. */
function dragOf(moves, from) {
  const { spans, dots, stripDots } = curvesOf(moves);
  const onPad = from.y < HIGH + 3;
  const [around, high, own] = onPad ? [0, HIGH, dots] : [STRIP, STRIP_HIGH, stripDots];
  const distances = own.map((place) => Math.hypot(place.x - from.x, place.y - from.y));
  const nearest = distances.lastIndexOf(Math.min(...distances));
  const trail = [{ x: 0, y: around, along: 0 }];
  let drawn = false;
  return (there) => {
    const here = { x: within(there.x, -WIDE, WIDE), y: within(there.y, around - high, around + high) };
    const last = trail.at(-1);
    const along = onPad ? last.along + Math.hypot(here.x - last.x, here.y - last.y) : (here.x / WIDE + 1) / 2;
    if (along > last.along) trail.push({ ...here, along });
    drawn ||= Math.hypot(here.x - from.x, here.y - from.y) > DOT;
    const onDot = nearest > 0 && distances[nearest] < DOT;
    // A click, which also gives the pad the focus, does not replace a curve.
    if (!onDot && !drawn && own.length > 2) return moves;
    const stroke = () => (drawn ? evenly(trail, onPad ? trail.at(-1).along : 1) : [trail[0], here]);
    const places = onDot ? own.with(nearest, here) : stroke();
    const across = (name) => places.map(({ x }) => rounded(name, (x / WIDE) * spans[name]));
    const up = (name) => places.map(({ y }) => rounded(name, ((around - y) / high) * spans[name]));
    return { ...moves, ...(onPad ? { orbit: across("orbit"), rise: up("rise") } : { dolly: up("dolly") }) };
  };
}

function addPad(node) {
  const path = node.widgets?.find((widget) => widget.name === "path");
  if (!path || !node.addDOMWidget) return;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const [width, height, middle] = [2 * WIDE + 8, HIGH + STRIP + STRIP_HIGH + 4, (STRIP + STRIP_HIGH - HIGH) / 2];
  svg.setAttribute("viewBox", `${-width / 2} ${middle - height / 2} ${width} ${height}`);
  svg.dataset.testid = "dynamicrafter_path";
  svg.tabIndex = 0;
  const style = { width: "100%", height: "100%", color: "var(--input-text)", cursor: "crosshair", touchAction: "none" };
  Object.assign(svg.style, style, { userSelect: "none" });
  const show = () => {
    svg.innerHTML = drawing(read(path.value));
    svg.ariaLabel = `path ${path.value}`;
  };
  const set = (moves) => {
    path.value = write(moves);
    path.callback?.(path.value);
    node.setDirtyCanvas(true, true);
  };
  const place = ({ clientX, clientY }) => {
    const frame = svg.getBoundingClientRect();
    const scale = Math.min(frame.width / width, frame.height / height);
    const [x, y] = [clientX - frame.left - frame.width / 2, clientY - frame.top - frame.height / 2];
    return { x: x / scale, y: y / scale + middle };
  };

  /** Whether another node gives the path. */
  const isLinked = () => node.inputs?.some((input) => input.name === "path" && input.link != null);

  svg.onpointerdown = (event) => {
    event.stopPropagation();
    if (event.button || isLinked()) return;
    svg.setPointerCapture(event.pointerId);
    const drag = dragOf(read(path.value), place(event));
    svg.onpointermove = (moved) => set(drag(place(moved)));
    svg.onpointermove(event);
  };
  svg.onpointerup = svg.onpointercancel = () => (svg.onpointermove = null);
  svg.onkeydown = (event) => {
    const [name, step] = KEYS[event.key] ?? [];
    if (!name || isLinked()) return;
    event.preventDefault();
    event.stopPropagation();
    const moves = read(path.value);
    const values = moves[name] ?? [0, 0];
    set({ ...moves, [name]: values.with(-1, rounded(name, values.at(-1) + step)) });
  };

  for (const [owner, name] of [[path, "callback"], [node, "onConfigure"]]) {
    const before = owner[name];
    owner[name] = function (...values) {
      const result = before?.apply(this, values);
      show();
      return result;
    };
  }
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => 190, getMaxHeight: () => 360 };
  node.addDOMWidget("dynamicrafter_path", "dynamicrafter_path", svg, options).serialize = false;
  show();
}

app.registerExtension({
  name: "DynamiCrafter.CameraPath",
  nodeCreated(node) {
    if (node.comfyClass === "DynamiCrafterCameraGuide") addPad(node);
  },
});
