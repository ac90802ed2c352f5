// A map of bins: land, the tiles of one month or year as coloured cells, borders, and the cell that is picked.

import { tile, tileAtHand } from "./api.js";
import { el } from "./format.js";
import { BINS, FINEST_ZOOM, cellAt, cornersOf, figure } from "./grid.js";

const { L, topojson } = window;
const CLOSEST = 12;
const FINE = 16;  // pixels of a bin in a tile's canvas, at most
const STILL = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

let atlas = null;

// Outlines of land and borders between countries, once for all maps.
async function outlines() {
  atlas ??= fetch(new URL("vendor/world-atlas/countries-50m.json", document.baseURI)).then(async (answer) => {
    const topology = await answer.json();
    const { land, countries } = topology.objects;
    const polygons = topojson.feature(topology, land).features?.flatMap(({ geometry }) => geometry.coordinates)
      ?? topojson.feature(topology, land).geometry.coordinates;
    return {
      land: polygons.flatMap(flattened),
      coasts: polygons.flat().flatMap(cut),
      borders: topojson.mesh(topology, countries, (one, other) => one !== other).coordinates.flatMap(cut),
    };
  });
  return atlas;
}

const crosses = ([west], [east]) => Math.abs(east - west) > 180;

// A line of the globe as lines of a flat map: it ends where it leaves the map and goes on at the other side.
function cut(line) {
  const parts = [];
  line.forEach((point, i) => {
    if (i === 0 || crosses(line[i - 1], point)) parts.push([]);
    parts.at(-1).push([point[1], point[0]]);
  });
  return parts.filter((part) => part.length > 1);
}

// A polygon of the globe as polygons of a flat map: one that crosses 180 degrees shows at both sides.
function flattened(rings) {
  const unrolled = rings.map((ring) => {
    let turns = 0;
    const points = ring.map(([lng, lat], i) => {
      if (i > 0 && crosses(ring[i - 1], ring[i])) turns += lng < 0 ? 360 : -360;
      return [lat, lng + turns];
    });
    // Around the pole, which the flat map has as an edge.
    if (turns) points.push([-90, points.at(-1)[1]], [-90, points[0][1]]);
    return points;
  });
  const lngs = unrolled[0].map(([, lng]) => lng);
  const moved = [0];
  if (Math.max(...lngs) > 180) moved.push(-360);
  if (Math.min(...lngs) < -180) moved.push(360);
  return moved.map((by) => unrolled.map((ring) => ring.map(([lat, lng]) => [lat, lng + by])));
}

// Draws published tiles; `owner` knows which, and how a bin is coloured.
const Bins = L.GridLayer.extend({
  initialize(owner, cellPixels) {
    this.owner = owner;
    this.shift = Math.log2((cellPixels * BINS) / 256);
    this.pixels = Math.min(FINE, 2 * cellPixels);
    this.drawn = new Set();
    L.GridLayer.prototype.initialize.call(this, {
      tileSize: cellPixels * BINS,
      minNativeZoom: this.shift,
      maxNativeZoom: FINEST_ZOOM + this.shift,
      noWrap: true,
      bounds: [[-85.06, -180], [85.06, 180]],
      updateWhenZooming: false,
      keepBuffer: 1,
    });
    this.on("tileunload", ({ tile: canvas }) => this.drawn.delete(canvas));
  },

  // The zoom of the tiles that are shown at a zoom of the map.
  tileZoom(mapZoom) {
    return Math.min(Math.max(Math.round(mapZoom) - this.shift, 0), FINEST_ZOOM);
  },

  createTile({ x, y, z }, done) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = BINS * this.pixels;
    canvas.at = { x, y, z: z - this.shift };
    this.drawn.add(canvas);
    this.draw(canvas).then((problem) => done(problem, canvas));
    return canvas;
  },

  // Draw what the owner shows now; gives back the problem if that failed.
  async draw(canvas) {
    const { hooks } = this.owner;
    hooks.onBusy(1);
    try {
      await this.fill(canvas);
      return null;
    } catch (problem) {
      hooks.onProblem(problem);
      return problem;
    } finally {
      hooks.onBusy(-1);
    }
  },

  async fill(canvas) {
    const { sources, look } = this.owner;
    const { x, y, z } = canvas.at;
    const values = await valuesIn(sources, look.agg, z, x, y);
    // Meanwhile something else may have been chosen: its own drawing follows.
    if (sources !== this.owner.sources || look !== this.owner.look) return;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    const side = this.pixels;
    const scale = look.scaleAt(z);
    for (const [bin, value] of values) {
      if (!look.keeps(value)) continue;
      context.fillStyle = scale.colour(value);
      context.fillRect((bin % BINS) * side, Math.floor(bin / BINS) * side, side - 1, side - 1);
    }
  },

  async drawAll() {
    await Promise.all([...this.drawn].map((canvas) => this.draw(canvas)));
  },
});

// Value by bin of a tile. Of two sources it is what the second has more than the first, where both have a value.
export async function valuesIn(sources, agg, z, x, y) {
  const [one, other] = await Promise.all(sources.map((source) => tile(source, z, x, y)));
  const values = new Map();
  for (const [bin, position] of one?.positions ?? []) {
    let value = figure(one, position, agg);
    if (sources.length > 1 && value !== null) {
      const there = other.positions.get(bin);
      const second = there === undefined ? null : figure(other, there, agg);
      value = second === null ? null : second - value;
    }
    if (value !== null) values.set(bin, value);
  }
  return values;
}

const BLANK = { agg: { space: "mean", time: "mean" }, scaleAt: () => null, keeps: () => false };

export class BinMap {
  // hooks: onPick(cell), onHover(cell, x, y) with null for none, onZoom(), onProblem(error), onArea(bounds), onCorner(),
  // onBusy(1) when something begins that takes time, onBusy(-1) when it ends
  constructor(element, hooks) {
    this.hooks = hooks;
    this.sources = [];
    this.look = BLANK;
    this.map = L.map(element, {
      minZoom: 0,
      maxZoom: CLOSEST,
      // Fine steps, so that the whole world, or all data, fills the window.
      zoomSnap: 0.25,
      attributionControl: false,
      zoomControl: false,
      fadeAnimation: false,
      zoomAnimation: !STILL,
      inertia: !STILL,
    }).setView([8, 20], 2);
    L.control.zoom({ position: "topleft" }).addTo(this.map);
    this.#addFit();
    L.control.attribution({ prefix: false, position: "bottomright" })
      .addAttribution("Outlines: Natural Earth").addTo(this.map);
    L.control.scale({ imperial: false, position: "bottomleft" }).addTo(this.map);
    this.map.createPane("land").style.zIndex = 150;
    for (const [name, above] of [["borders", 300], ["circles", 420], ["names", 450]]) {
      this.map.createPane(name).style.zIndex = above;
      if (name !== "circles") this.map.getPane(name).style.pointerEvents = "none";
    }
    this.circles = L.layerGroup().addTo(this.map);
    this.names = L.layerGroup().addTo(this.map);
    this.#addLand();
    this.#listen(element);
    this.setCells(8);
  }

  async #addLand() {
    const { land, coasts, borders } = await outlines();
    const canvas = (pane) => ({ pane, renderer: L.canvas({ pane, padding: 0.5 }), interactive: false });
    L.polygon(land, { ...canvas("land"), stroke: false, fillColor: "#e3e6e8", fillOpacity: 1 }).addTo(this.map);
    const line = { ...canvas("borders"), fill: false, color: "#5d6b78" };
    L.polyline(coasts, { ...line, weight: 0.9, opacity: 0.9 }).addTo(this.map);
    L.polyline(borders, { ...line, weight: 0.8, opacity: 0.75 }).addTo(this.map);
  }

  #addFit() {
    const control = L.control({ position: "topleft" });
    control.onAdd = () => {
      const box = L.DomUtil.create("div", "leaflet-bar");
      const button = L.DomUtil.create("button", "fit", box);
      button.type = "button";
      button.textContent = "⤢";
      button.title = "Show all data";
      button.setAttribute("aria-label", "Show all data");
      L.DomEvent.disableClickPropagation(box);
      button.addEventListener("click", () => this.fit());
      return box;
    };
    control.addTo(this.map);
  }

  #listen(element) {
    this.map.on("mousemove", ({ latlng, originalEvent }) => {
      if (this.corner) this.#stretch(latlng);
      else this.hooks.onHover(this.#occupied(latlng), originalEvent.clientX, originalEvent.clientY);
    });
    this.map.on("mousedown", ({ latlng }) => { if (this.drawing) [this.corner, this.byKeyboard] = [latlng, false]; });
    this.map.on("mouseup", ({ latlng }) => { if (this.corner) this.#close(latlng); });
    this.map.on("mouseout movestart zoomstart", () => this.hooks.onHover(null));
    this.map.on("click", ({ latlng }) => {
      if (this.closed) this.closed = false;  // The end of a rectangle is no choice of a cell.
      else this.hooks.onPick(cellAt(latlng, this.zoom));
    });
    this.map.on("zoomend", () => this.hooks.onZoom());
    element.setAttribute("role", "application");
    element.addEventListener("keydown", (event) => {
      if (event.target !== element || event.key !== "Enter") return;
      event.preventDefault();
      const middle = this.map.getCenter();
      if (!this.drawing) {
        this.hooks.onPick(cellAt(middle, this.zoom));
      } else if (this.corner) {
        this.#close(middle);
        this.closed = false;
      } else {
        [this.corner, this.byKeyboard] = [middle, true];
        this.hooks.onCorner();
      }
    });
    this.map.on("move", () => { if (this.corner && this.byKeyboard) this.#stretch(this.map.getCenter()); });
  }

  // The bin at a place, if it has data and its tile is here.
  #occupied(latlng) {
    const cell = cellAt(latlng, this.zoom);
    if (!cell) return null;
    const some = this.sources.some((source) => tileAtHand(source, cell.z, cell.x, cell.y)?.positions.has(cell.bin));
    return some ? cell : null;
  }

  // --- a rectangle ---

  // Whether dragging draws a rectangle instead of moving the map.
  set drawsArea(on) {
    this.drawing = on;
    this.corner = null;
    this.map.dragging[on ? "disable" : "enable"]();
    this.map.getContainer().classList.toggle("drawing", on);
  }

  #stretch(latlng) {
    this.showArea(boundsOf(L.latLngBounds(this.corner, latlng)));
  }

  #close(latlng) {
    const bounds = L.latLngBounds(this.corner, latlng);
    this.corner = null;
    this.closed = true;
    this.hooks.onArea(bounds.getWest() < bounds.getEast() && bounds.getSouth() < bounds.getNorth() ? boundsOf(bounds) : null);
  }

  // West, south, east and north of what is in sight.
  get inSight() {
    return boundsOf(this.map.getBounds());
  }

  showArea(bounds) {
    this.area?.remove();
    this.area = bounds && L.rectangle([[bounds[1], bounds[0]], [bounds[3], bounds[2]]], {
      interactive: false, fill: false, color: "#111827", weight: 2, dashArray: "6 4", className: "area",
    }).addTo(this.map);
  }

  // --- regions ---

  // Regions as circles at their middles: [{id, text, at: [lat, lng], colour}]; onPick(id), onHover(one or null, x, y).
  showCircles(found, onPick, onHover) {
    this.circles.clearLayers();
    for (const one of found) {
      const circle = L.circleMarker(one.at, {
        pane: "circles", radius: 9, weight: 1.5, color: "#16202c", fillColor: one.colour, fillOpacity: 1, bubblingMouseEvents: false,
      });
      circle.on("click", () => onPick(one.id));
      circle.on("mousemove", ({ originalEvent }) => onHover(one, originalEvent.clientX, originalEvent.clientY));
      circle.on("mouseout", () => onHover(null));
      circle.addTo(this.circles);
    }
  }

  // Names at places, those that come first in the list before others: [{text, at: [lat, lng]}].
  showNames(found) {
    this.names.clearLayers();
    const taken = [];
    const size = this.map.getSize();
    for (const { text, at } of found) {
      const { x, y } = this.map.latLngToContainerPoint(at);
      const half = (Math.min(text.length, 28) * 6.6) / 2 + 3;
      const box = [x - half, y - 9, x + half, y + 9];
      if (box[0] < 0 || box[1] < 0 || box[2] > size.x || box[3] > size.y) continue;
      if (taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1])) continue;
      taken.push(box);
      const label = el("span", { className: "place", title: text }, text);
      L.marker(at, {
        pane: "names", interactive: false, keyboard: false, icon: L.divIcon({ className: "placed", html: label, iconSize: [0, 0] }),
      }).addTo(this.names);
    }
  }

  // Zoom of the tiles that are shown.
  get zoom() {
    return this.bins.tileZoom(this.map.getZoom());
  }

  setCells(pixels) {
    this.bins?.remove();
    this.bins = new Bins(this, pixels).addTo(this.map);
  }

  // Show sources {run, feature, resolution, timestamp}: one, two for their difference, or none.
  // look: agg, scaleAt(zoom of tiles), keeps(value)
  async show(sources, look) {
    this.sources = sources;
    this.look = look;
    await this.bins.drawAll();
  }

  // The values of all bins of the tiles that are drawn; `[{z, x, y, bin, value}]`.
  async values(sources, agg) {
    const found = await Promise.all([...this.bins.drawn].map(async ({ at: { z, x, y } }) =>
      [...await valuesIn(sources, agg, z, x, y)].map(([bin, value]) => ({ z, x, y, bin, value }))));
    return found.flat();
  }

  mark(cell, kind) {
    this[kind]?.remove();
    this[kind] = cell && L.rectangle(cornersOf(cell), {
      interactive: false, fill: false, className: `marked ${kind}`, color: "#111827",
      weight: kind === "picked" ? 3 : 1.5,
    }).addTo(this.map);
  }

  // Go to where the data is, if there is any: the bins of the coarsest tile, then those of the finest tile around them.
  async fit(source = this.sources[0]) {
    if (!source) return false;
    let corners = null;
    for (let z = 0; z <= FINEST_ZOOM; z += 1) {
      const found = await this.#extent(source, z, corners);
      if (!found.length) break;
      corners = L.latLngBounds(found);
      const [one, other] = [cellAt(corners.getNorthWest(), z + 1), cellAt(corners.getSouthEast(), z + 1)];
      // Data all over several tiles is seen well enough.
      if (!one || !other || (other.x - one.x + 1) * (other.y - one.y + 1) > 4) break;
    }
    if (corners) this.map.fitBounds(corners, { padding: [24, 24], maxZoom: 9, animate: false });
    return corners !== null;
  }

  async #extent(source, z, within) {
    const from = within ? cellAt(within.getNorthWest(), z) : { x: 0, y: 0 };
    const to = within ? cellAt(within.getSouthEast(), z) : { x: 0, y: 0 };
    if (!from || !to) return [];
    const asked = [];
    for (let x = from.x; x <= to.x; x += 1) {
      for (let y = from.y; y <= to.y; y += 1) {
        asked.push(tile(source, z, x, y).then((loaded) =>
          [...loaded.positions.keys()].flatMap((bin) => cornersOf({ z, x, y, bin }))));
      }
    }
    return (await Promise.all(asked)).flat();
  }
}

const boundsOf = (bounds) => [bounds.getWest(), bounds.getSouth(), bounds.getEast(), bounds.getNorth()]
  .map((degrees, i) => Number(Math.min(Math.max(degrees, i % 2 ? -85.05 : -180), i % 2 ? 85.05 : 180).toFixed(4)));

// Keep two maps at the same place: moving either moves the other.
export function together(one, other) {
  let leading = null;
  const follow = (leader, follower) => () => {
    if (leading === follower) return;
    leading = leader;
    follower.map.setView(leader.map.getCenter(), leader.map.getZoom(), { animate: false });
    leading = null;
  };
  const there = follow(one, other);
  const back = follow(other, one);
  one.map.on("move zoomend", there);
  other.map.on("move zoomend", back);
  there();
  return () => {
    one.map.off("move zoomend", there);
    other.map.off("move zoomend", back);
  };
}
