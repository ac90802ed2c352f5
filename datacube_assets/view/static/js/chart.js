// Lines over time, drawn as SVG: one per run, with a mark at the time the map shows.

import { LINES } from "./colours.js";
import { NOTHING, moment, number, svg, tick } from "./format.js";

const HEIGHT = 190;
const EDGE = { top: 10, right: 14, bottom: 24 };
const LETTER = 6.3;  // pixels of a letter of a label, rather more than less
const FEW = 3;  // fewer years than this are points: a line between them would look like a trend

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

// Januaries where there are several, else single months: as many of them as stand beside each other.
function timeTicks(timestamps, resolution, x, [left, right]) {
  const januaries = timestamps.filter((at) => new Date(at).getUTCMonth() === 0);
  const candidates = resolution === "month" && januaries.length < 2 ? timestamps : januaries;
  const ticks = [];
  let taken = -Infinity;
  for (const at of candidates) {
    const text = moment(at, new Date(at).getUTCMonth() === 0 ? "year" : resolution);
    const half = (text.length * LETTER) / 2;
    const middle = Math.min(Math.max(x(at), left + half), right - half);
    if (middle - half < taken) continue;
    ticks.push({ text, middle, at });
    taken = middle + half + LETTER;
  }
  return ticks;
}

// Months or years between two moments.
function apart(one, other, resolution) {
  const [first, last] = [new Date(one), new Date(other)];
  const years = last.getUTCFullYear() - first.getUTCFullYear();
  return resolution === "year" ? years : 12 * years + last.getUTCMonth() - first.getUTCMonth();
}

// lines: [{name, timestamps, values, look: {colour: number, dash: boolean}}]; onPick(timestamp).
export function chart(width, { lines, now, resolution, label, onPick }) {
  const points = lines.flatMap(({ timestamps, values }) =>
    timestamps.map((at, i) => [at, values[i]]).filter(([, value]) => value !== null));
  const timestamps = [...new Set(lines.flatMap((line) => line.timestamps))].sort((a, b) => a - b);
  const right = width - EDGE.right;
  if (!points.length) return svg("svg", { class: "chart", viewBox: `0 0 ${width} 1`, role: "img", "aria-label": label });
  const bottom = HEIGHT - EDGE.bottom;
  const [first, last] = [timestamps[0], timestamps.at(-1)];
  const [least, most] = span(points.map(([, value]) => value));
  const marks = steps(least, most);
  const left = 12 + LETTER * Math.max(...marks.map((value) => tick(value).length), 2);
  const x = (at) => (first === last ? (left + right) / 2
    : left + ((at - first) / (last - first)) * (right - left));
  const y = (value) => bottom - ((value - least) / (most - least)) * (bottom - EDGE.top);

  const drawn = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label });
  for (const value of marks) {
    drawn.append(
      svg("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, tick(value)),
    );
  }
  for (const { text, middle, at } of timeTicks(timestamps, resolution, x, [0, width])) {
    drawn.append(
      svg("line", { class: "grid", x1: x(at), x2: x(at), y1: bottom, y2: bottom + 4 }),
      svg("text", { class: "tick", x: middle, y: HEIGHT - 7, "text-anchor": "middle" }, text),
    );
  }
  drawn.append(svg("line", { class: "now", x1: x(now), x2: x(now), y1: EDGE.top, y2: bottom }));
  for (const line of lines) drawLine(drawn, line, resolution, x, y, now);
  listen(drawn, { timestamps, x, onPick });
  return drawn;
}

function drawLine(drawn, { timestamps, values, look }, resolution, x, y, now) {
  const { stroke, dash } = LOOKS(look);
  const there = timestamps.map((at, i) => [at, values[i]]).filter(([, value]) => value !== null);
  const isTrend = resolution === "month" || there.length >= FEW;
  let path = "";
  const alone = new Set();
  there.forEach(([at, value], i) => {
    // A gap stays a gap: a value that is missing, or a month that is not there.
    const joins = isTrend && i > 0 && apart(there[i - 1][0], at, resolution) === 1;
    const goesOn = isTrend && i + 1 < there.length && apart(at, there[i + 1][0], resolution) === 1;
    path += `${joins ? "L" : "M"}${x(at).toFixed(1)},${y(value).toFixed(1)}`;
    if (!joins && !goesOn) alone.add(at);
  });
  drawn.append(svg("path", {
    d: path, fill: "none", stroke, "stroke-width": 2, "stroke-linejoin": "round", ...(dash ? { "stroke-dasharray": "5 4" } : {}),
  }));
  const dense = timestamps.length > 60;
  for (const [at, value] of there) {
    if (dense && at !== now && !alone.has(at)) continue;
    drawn.append(svg("circle", { cx: x(at), cy: y(value), r: at === now ? 4.5 : 2.4, fill: stroke }));
  }
}

const LOOKS = ({ colour, dash }) => ({ stroke: LINES[colour % LINES.length], dash });

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
