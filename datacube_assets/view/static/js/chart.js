// Lines over time, drawn as SVG: one per run, with a mark at the time the map shows.

import { LINES } from "./colours.js";
import { NOTHING, moment, number, svg, tick } from "./format.js";

const HEIGHT = 190;
const EDGE = { top: 10, right: 12, bottom: 24, left: 52 };

// Round steps between two values, some four of them.
function steps(least, most) {
  const rough = (most - least) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) * power;
  const first = Math.ceil(least / step - 1e-9);
  const last = Math.floor(most / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function span(values) {
  const least = Math.min(...values);
  const most = Math.max(...values);
  if (least < most) return least > 0 && least < most / 2 ? [0, most] : [least, most];
  const room = Math.abs(least) * 0.1 || 1;
  return [least - room, most + room];
}

// Januaries, or as many of them as there is room for; single months where there are few.
function timeTicks(timestamps, resolution, room) {
  const januaries = timestamps.filter((at) => new Date(at).getUTCMonth() === 0);
  const candidates = resolution === "month" && januaries.length < 2 ? timestamps : januaries;
  const every = Math.max(1, Math.ceil(candidates.length / room));
  return candidates.filter((_, i) => i % every === 0);
}

// lines: [{name, timestamps, values}]; onPick(timestamp). Returns the chart.
export function chart(width, { lines, now, resolution, label, onPick }) {
  const points = lines.flatMap(({ timestamps, values }) =>
    timestamps.map((at, i) => [at, values[i]]).filter(([, value]) => value !== null));
  const timestamps = [...new Set(lines.flatMap((line) => line.timestamps))].sort((a, b) => a - b);
  const right = width - EDGE.right;
  const bottom = HEIGHT - EDGE.bottom;
  const [first, last] = [timestamps[0], timestamps.at(-1)];
  const [least, most] = span(points.map(([, value]) => value));
  const x = (at) => (first === last ? (EDGE.left + right) / 2
    : EDGE.left + ((at - first) / (last - first)) * (right - EDGE.left));
  const y = (value) => bottom - ((value - least) / (most - least)) * (bottom - EDGE.top);

  const drawn = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label });
  for (const value of steps(least, most)) {
    drawn.append(
      svg("line", { class: "grid", x1: EDGE.left, x2: right, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick", x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, tick(value)),
    );
  }
  for (const at of timeTicks(timestamps, resolution, Math.floor((right - EDGE.left) / 62))) {
    const january = new Date(at).getUTCMonth() === 0;
    drawn.append(svg("text", { class: "tick", x: x(at), y: HEIGHT - 7, "text-anchor": "middle" },
      moment(at, january ? "year" : resolution)));
  }
  drawn.append(svg("line", { class: "now", x1: x(now), x2: x(now), y1: EDGE.top, y2: bottom }));
  lines.forEach((line, i) => drawLine(drawn, line, LINES[i], x, y, now));
  listen(drawn, { timestamps, x, onPick });
  return drawn;
}

function drawLine(drawn, { timestamps, values }, stroke, x, y, now) {
  let path = "";
  let pen = "M";
  timestamps.forEach((at, i) => {
    // A gap stays a gap.
    if (values[i] === null) { pen = "M"; return; }
    path += `${pen}${x(at).toFixed(1)},${y(values[i]).toFixed(1)}`;
    pen = "L";
  });
  drawn.append(svg("path", { d: path, fill: "none", stroke, "stroke-width": 2, "stroke-linejoin": "round" }));
  const dense = timestamps.length > 60;
  timestamps.forEach((at, i) => {
    if (values[i] === null || (dense && at !== now)) return;
    drawn.append(svg("circle", { cx: x(at), cy: y(values[i]), r: at === now ? 4.5 : 2.2, fill: stroke }));
  });
}

function listen(drawn, { timestamps, x, onPick }) {
  const nearest = (event) => {
    const box = drawn.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * drawn.viewBox.baseVal.width;
    return timestamps.reduce((best, one) => (Math.abs(x(one) - at) < Math.abs(x(best) - at) ? one : best));
  };
  drawn.addEventListener("click", (event) => onPick(nearest(event)));
  drawn.addEventListener("mousemove", (event) => {
    drawn.dispatchEvent(new CustomEvent("near", { detail: nearest(event) }));
  });
  drawn.addEventListener("mouseleave", () => drawn.dispatchEvent(new CustomEvent("near", { detail: null })));
}

// What a line says at a time.
export function at({ timestamps, values }, timestamp) {
  const i = timestamps.indexOf(timestamp);
  return i < 0 ? NOTHING : number(values[i]);
}
