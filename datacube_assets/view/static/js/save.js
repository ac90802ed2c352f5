// What is shown, as files: CSV, and a PNG of the map. Files are made in the page and leave it as downloads only.

import { el } from "./format.js";

function offer(blob, name) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name.replace(/[^\p{L}\p{N}._-]+/gu, "-") }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const cellOf = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

export function csv(name, head, rows) {
  const lines = [head, ...rows].map((row) => row.map(cellOf).join(","));
  offer(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }), `${name}.csv`);
}

const MARGIN = 12;
const LEGEND = 76;

// The maps that are in sight, side by side, with a legend below: canvases as the browser has drawn them.
export async function png(name, maps, { title, subtitle, scale, ends }) {
  const frames = maps.map((map) => map.getBoundingClientRect());
  const width = frames.reduce((sum, { width: one }) => sum + one, 0) + MARGIN * (maps.length + 1);
  const height = Math.max(...frames.map((frame) => frame.height)) + LEGEND + 2 * MARGIN;
  const canvas = el("canvas", { width: 2 * width, height: 2 * height });
  const pen = canvas.getContext("2d");
  pen.scale(2, 2);
  pen.fillStyle = "#ffffff";
  pen.fillRect(0, 0, width, height);
  let left = MARGIN;
  maps.forEach((map, i) => {
    pen.save();
    pen.beginPath();
    pen.rect(left, MARGIN, frames[i].width, frames[i].height);
    pen.clip();
    pen.fillStyle = "#f7fafc";
    pen.fillRect(left, MARGIN, frames[i].width, frames[i].height);
    // In the order in which the panes lie over each other.
    const layers = [...map.querySelectorAll("canvas")].sort((one, other) => depth(one) - depth(other));
    for (const layer of layers) {
      const box = layer.getBoundingClientRect();
      pen.drawImage(layer, left + box.left - frames[i].left, MARGIN + box.top - frames[i].top, box.width, box.height);
    }
    for (const circle of map.querySelectorAll(".leaflet-circles-pane path")) drawCircle(pen, circle, frames[i], left);
    pen.font = "12px sans-serif";
    pen.textAlign = "center";
    pen.lineWidth = 3;
    pen.strokeStyle = "#ffffff";
    pen.fillStyle = "#16202c";
    for (const label of map.querySelectorAll(".place")) {
      const box = label.getBoundingClientRect();
      const at = [left + box.left - frames[i].left + box.width / 2, MARGIN + box.top - frames[i].top + box.height - 4];
      pen.strokeText(label.textContent, ...at);
      pen.fillText(label.textContent, ...at);
    }
    pen.restore();
    left += frames[i].width + MARGIN;
  });
  const top = height - LEGEND;
  pen.textAlign = "left";
  pen.fillStyle = "#16202c";
  pen.font = "bold 14px sans-serif";
  pen.fillText(title, MARGIN, top + 14, width - 2 * MARGIN);
  pen.font = "12px sans-serif";
  pen.fillText(subtitle, MARGIN, top + 32, width - 2 * MARGIN);
  if (scale) {
    for (let x = 0; x < 240; x += 1) {
      pen.fillStyle = scale.ramp[Math.round((x / 239) * (scale.ramp.length - 1))];
      pen.fillRect(MARGIN + x, top + 40, 1, 10);
    }
    pen.fillStyle = "#16202c";
    ends.forEach((text, i) => {
      pen.textAlign = ["left", "center", "right"][i];
      pen.fillText(text, MARGIN + 120 * i, top + 64);
    });
  }
  offer(await new Promise((done) => canvas.toBlob(done, "image/png")), `${name}.png`);
}

function drawCircle(pen, circle, frame, left) {
  const box = circle.getBoundingClientRect();
  pen.beginPath();
  pen.arc(left + box.left - frame.left + box.width / 2, MARGIN + box.top - frame.top + box.height / 2, box.width / 2, 0, 7);
  pen.fillStyle = circle.getAttribute("fill");
  pen.strokeStyle = circle.getAttribute("stroke");
  pen.lineWidth = 1.5;
  pen.fill();
  pen.stroke();
}

const depth = (layer) => Number(getComputedStyle(layer.closest(".leaflet-pane")).zIndex) || 0;
