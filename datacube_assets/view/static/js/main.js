// The page: what is chosen, and everything that follows from it. The choice lives in the address, behind `#`,
// so that a view can be kept as a bookmark or sent to somebody.

import * as api from "./api.js";
import { LINES } from "./colours.js";
import { at, chart } from "./chart.js";
import { NOTHING, SEPARATOR, brief, coordinates, el, lastName, moment, number, regionName, svg } from "./format.js";
import { centreOf, figure, hasTiles } from "./grid.js";
import { BinMap, together } from "./map.js";

const LEVELS = ["country", "admin1", "admin2", "admin3"];
const WORDS = { sum: "sum", mean: "mean", wavg: "weighted mean" };
const MOST_REGIONS = 200;
const FRAME = 900;  // milliseconds of a month while playing

const $ = (id) => document.getElementById(id);
const panes = [...document.querySelectorAll(".pane")].map((figure_) => ({
  figure: figure_,
  title: figure_.querySelector(".title"),
  map: figure_.querySelector(".map"),
  note: figure_.querySelector(".note"),
  bins: null,
}));

let runs = [];
let choice = null;  // what the address says
let shown = null;  // what was read for it: descriptions, timestamps
let picked = null;  // {cell, regions}
let playing = null;
let separate = null;  // stops the two maps moving together
let turn = 0;  // counts choices: an answer to an earlier one is dropped

// --- the choice ---------------------------------------------------------------------------------------

const same = (one, other) => one.model_id === other.model_id && one.run_id === other.run_id;
const runNamed = (model_id, run_id) => runs.find((run) => same(run, { model_id, run_id })) ?? null;

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  const run = runNamed(words.get("model"), words.get("run"))
    ?? runs.find((one) => one.model_id === words.get("model")) ?? runs[0];
  const zoom = Number(words.get("zoom"));
  return {
    run,
    other: runNamed(words.get("with_model"), words.get("with_run")),
    feature: words.get("feature"),
    resolution: words.get("by") === "year" ? "year" : "month",
    timestamp: words.has("time") ? Number(words.get("time")) : null,
    agg: {
      time: WORDS[words.get("t")] ? words.get("t") : "mean",
      space: WORDS[words.get("s")] ? words.get("s") : "mean",
    },
    level: LEVELS.includes(words.get("level")) ? words.get("level") : null,
    region: words.get("region"),
    span: words.get("span") === "all" ? "all" : "now",
    cells: ["4", "8", "16", "32"].includes(words.get("cells")) ? Number(words.get("cells")) : 8,
    place: zoom ? { lat: Number(words.get("lat")), lng: Number(words.get("lng")), zoom } : null,
  };
}

function writeAddress() {
  const { run, other, feature, resolution, timestamp, agg, level, region, span, cells } = choice;
  const centre = panes[0].bins?.map.getCenter();
  const words = {
    model: run.model_id, run: run.run_id, with_model: other?.model_id, with_run: other?.run_id,
    feature, by: resolution, time: timestamp, t: agg.time, s: agg.space, level: region && level, region,
    span: span === "all" ? span : null, cells: cells === 8 ? null : cells,
    lat: centre?.lat.toFixed(4), lng: centre?.lng.toFixed(4), zoom: panes[0].bins?.map.getZoom(),
  };
  const given = Object.entries(words).filter(([, word]) => word !== null && word !== undefined);
  history.replaceState(null, "", `#${new URLSearchParams(given)}`);
}

const chosenRuns = () => [choice.run, choice.other].filter(Boolean);
const column = () => `s_${choice.agg.space}_t_${choice.agg.time}`;
const words = () => shown.features.find(({ name }) => name === choice.feature) ?? { name: choice.feature };
const featureName = () => words().display_name || choice.feature;
const unit = () => words().unit || "";
const unitAfter = () => (unit() ? ` ${unit()}` : "");

// --- reading ------------------------------------------------------------------------------------------

let pending = 0;

// Something begins (1) or ends (-1) that the page waits for.
function busy(by) {
  pending += by;
  $("shown").setAttribute("aria-busy", String(pending > 0));
}

async function attempt(work) {
  busy(1);
  try {
    await work();
  } catch (problem) {
    complain(problem);
  } finally {
    busy(-1);
  }
}

function complain(problem) {
  if (problem instanceof api.Refusal) {
    tell(problem.message);
  } else {
    tell(`The page failed: ${problem.message}. Reload it.`);
    console.error(problem);
  }
}

function tell(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

async function start() {
  const listed = await api.listRuns();
  runs = listed.runs;
  $("empty").hidden = runs.length > 0;
  $("shown").hidden = $("choice").hidden = runs.length === 0;
  if (!runs.length) {
    $("looked").replaceChildren(...listed.looked.map((url) => el("li", {}, el("code", {}, url))));
    return;
  }
  await follow();
}

// Show what the address says.
async function follow() {
  stopPlaying();
  unpick();
  $("find").value = "";
  choice = readAddress();
  const { place } = choice;
  await load({ fit: !place, place });
}

// Read everything for the chosen runs and feature, then show it.
async function load({ fit = false, place = null } = {}) {
  const mine = ++turn;
  tell("");
  const found = await gather();
  if (mine !== turn) return;
  shown = found;
  settle();
  fillControls();
  layOutMaps();
  if (place) panes[0].bins.map.setView(place, place.zoom, { animate: false });
  if (fit) await panes[0].bins.fit(sourceOf(shown.runs[0]));
  await showTime();
}

async function gather() {
  const described = await Promise.all(chosenRuns().map(api.describe));
  const features = described[0].features;
  if (!features.some(({ name }) => name === choice.feature)) choice.feature = features[0]?.name ?? null;
  const { feature, resolution } = choice;
  if (feature === null) throw new api.Refusal("This datacube has no feature: no row of it was usable.");
  const read = await Promise.all(described.map(async (about, i) => {
    const run = chosenRuns()[i];
    const has = about.features.some(({ name }) => name === feature);
    return {
      run, about, has, tiles: about.has_tiles && has,
      series: has ? await api.timeseries(run, feature, resolution) : { timestamps: [], columns: {} },
      lists: has && about.levels.length ? await api.regionLists(run, feature) : {},
    };
  }));
  const timestamps = [...new Set(read.flatMap(({ series }) => series.timestamps))].sort((a, b) => a - b);
  return { runs: read, features, timestamps, weighted: described[0].has_weights };
}

// Bring the choice in line with what there is.
function settle() {
  const { timestamps } = shown;
  if (!timestamps.includes(choice.timestamp)) {
    const before = timestamps.filter((one) => choice.timestamp !== null && one <= choice.timestamp);
    choice.timestamp = before.at(-1) ?? timestamps[0] ?? null;
  }
  for (const axis of ["time", "space"]) {
    if (choice.agg[axis] === "wavg" && !shown.weighted) choice.agg[axis] = "mean";
  }
  const levels = levelsThere();
  if (!levels.includes(choice.level)) [choice.level, choice.region] = [levels[0] ?? null, null];
  const known = shown.runs.some(({ lists }) => lists[choice.level]?.includes(choice.region));
  if (!known) choice.region = null;
}

const levelsThere = () => LEVELS.filter((level) => shown.runs.some(({ lists }) => lists[level]?.length));

// --- controls -----------------------------------------------------------------------------------------

function fillControls() {
  const models = [...new Map(runs.map((run) => [run.model_id, run])).values()];
  const groups = [["Models", models.filter((run) => !run.is_dataset)], ["Datasets", models.filter((run) => run.is_dataset)]];
  fill($("model"), groups.map(([label, members]) => [label, members.map((run) => [run.model_id, run.model_id])]),
    choice.run.model_id);
  const siblings = runs.filter((run) => run.model_id === choice.run.model_id);
  fill($("run"), [["", siblings.map((run) => [runKey(run), run.run_id])]], runKey(choice.run));
  // Runs of the same model come first: these are what one mostly compares.
  const others = models.map((run) => run.model_id)
    .sort((one, other) => (other === choice.run.model_id) - (one === choice.run.model_id))
    .map((model) => [model, runs.filter((run) => run.model_id === model && !same(run, choice.run))]);
  fill($("other"), [["", [["", "nothing"]]], ...others.map(([model, members]) =>
    [model, members.map((run) => [runKey(run), run.run_id])])], choice.other ? runKey(choice.other) : "");
  fill($("feature"), [["", shown.features.map(({ name, display_name }) =>
    [name, display_name && display_name.toLowerCase() !== name.toLowerCase() ? `${display_name} (${name})` : name])]],
  choice.feature);
  fill($("level"), [["", levelsThere().map((level) => [level, level])]], choice.level);
  for (const [name, value] of [["resolution", choice.resolution], ["time", choice.agg.time], ["space", choice.agg.space]]) {
    for (const radio of document.getElementsByName(name)) radio.checked = radio.value === value;
  }
  for (const label of document.querySelectorAll(".weighted")) label.hidden = !shown.weighted;
  $("span").value = choice.span;
  $("cells").value = String(choice.cells);
  const slider = $("slider");
  slider.max = Math.max(shown.timestamps.length - 1, 0);
  slider.disabled = shown.timestamps.length < 2;
}

const runKey = (run) => JSON.stringify([run.model_id, run.run_id]);
const runOfKey = (key) => (key ? runNamed(...JSON.parse(key)) : null);

// Groups of options: [[label, [[value, text]]]]; a group without label stands by itself.
function fill(select, groups, value) {
  select.replaceChildren(...groups.filter(([, members]) => members.length).flatMap(([label, members]) => {
    const options = members.map(([key, text]) => el("option", { value: key, textContent: text }));
    return label ? [el("optgroup", { label }, ...options)] : options;
  }));
  select.value = value ?? "";
}

function listen() {
  const reload = (change, options) => () => attempt(async () => {
    stopPlaying();
    change();
    await load(options);
  });
  $("model").addEventListener("change", reload(() => {
    choice.run = runs.find((run) => run.model_id === $("model").value);
    [choice.other, choice.region] = [null, null];
    unpick();
  }, { fit: true }));
  $("run").addEventListener("change", reload(() => {
    choice.run = runOfKey($("run").value);
    if (choice.other && same(choice.run, choice.other)) choice.other = null;
  }));
  $("other").addEventListener("change", reload(() => { choice.other = runOfKey($("other").value); }));
  $("feature").addEventListener("change", reload(() => { choice.feature = $("feature").value; }));
  for (const radio of document.getElementsByName("resolution")) {
    radio.addEventListener("change", reload(() => {
      choice.resolution = radio.value;
      // The year that the month is in, or its first month.
      if (radio.value === "year" && choice.timestamp !== null) {
        choice.timestamp = Date.UTC(new Date(choice.timestamp).getUTCFullYear(), 0);
      }
    }));
  }
  for (const axis of ["time", "space"]) {
    for (const radio of document.getElementsByName(axis)) {
      radio.addEventListener("change", () => attempt(async () => {
        choice.agg = { ...choice.agg, [axis]: radio.value };
        await showTime();
      }));
    }
  }
  $("slider").addEventListener("input", () => goTo(Number($("slider").value)));
  $("earlier").addEventListener("click", () => step(-1));
  $("later").addEventListener("click", () => step(1));
  $("play").addEventListener("click", () => (playing ? stopPlaying() : startPlaying()));
  $("span").addEventListener("change", () => attempt(async () => { choice.span = $("span").value; await showTime(); }));
  $("cells").addEventListener("change", () => attempt(async () => {
    choice.cells = Number($("cells").value);
    for (const { bins } of panes) bins?.setCells(choice.cells);
    await showTime();
  }));
  $("level").addEventListener("change", () => attempt(async () => {
    [choice.level, choice.region] = [$("level").value, null];
    await showPanel();
  }));
  $("find").addEventListener("input", showFound);
  $("again").addEventListener("click", () => location.reload());
  window.addEventListener("hashchange", () => attempt(follow));
  const resized = new ResizeObserver(() => { for (const { bins } of panes) bins?.map.invalidateSize({ animate: false }); });
  for (const { map } of panes) resized.observe(map);
  new ResizeObserver(() => { if (shown) attempt(showSeries); }).observe($("panel"));
  // Leaflet gives a map the focus at each click; only to a keyboard it means anything.
  document.addEventListener("keydown", () => document.body.classList.add("keys"), true);
  document.addEventListener("pointerdown", () => document.body.classList.remove("keys"), true);
}

// --- time ---------------------------------------------------------------------------------------------

const position = () => shown.timestamps.indexOf(choice.timestamp);

function goTo(index) {
  const timestamp = shown?.timestamps[index];
  if (timestamp === undefined || timestamp === choice.timestamp) return Promise.resolve();
  choice.timestamp = timestamp;
  return attempt(showTime);
}

function step(by) {
  stopPlaying();
  return goTo(position() + by);
}

function startPlaying() {
  const advance = async () => {
    const next = (position() + 1) % shown.timestamps.length;
    const [shownAt] = await Promise.all([goTo(next), new Promise((done) => setTimeout(done, FRAME))]);
    if (playing) playing = advance();
    return shownAt;
  };
  playing = true;
  $("play").setAttribute("aria-pressed", "true");
  $("play").textContent = "Pause";
  advance();
}

function stopPlaying() {
  playing = null;
  $("play").setAttribute("aria-pressed", "false");
  $("play").textContent = "Play";
}

// --- maps ---------------------------------------------------------------------------------------------

function layOutMaps() {
  panes.forEach(({ figure: box }, i) => { box.hidden = !shown.runs[i]; });
  panes.forEach((pane, i) => {
    const read = shown.runs[i];
    if (!read) {
      pane.bins?.show(null, choice.agg, () => [0, 1]);
      return;
    }
    pane.title.replaceChildren(
      el("span", { className: `dot line${i}` }), ` ${read.run.model_id} `, el("b", {}, read.run.run_id));
    pane.title.hidden = shown.runs.length < 2;
    pane.bins ??= new BinMap(pane.map, {
      onPick: pick, onHover: hover, onZoom: () => attempt(showRange),
      onProblem: complain, onBusy: busy,
    });
    pane.map.setAttribute("aria-label", `Map of ${read.run.model_id} ${read.run.run_id}. Arrows move, plus and minus zoom, Enter reads the cell in the middle.`);
    if (pane.cells !== choice.cells) pane.bins.setCells(choice.cells);
    pane.cells = choice.cells;
    pane.bins.map.invalidateSize({ animate: false });
  });
  separate?.();
  separate = shown.runs.length > 1 ? together(panes[0].bins, panes[1].bins) : null;
  panes[0].bins.map.off("moveend", writeAddress).on("moveend", writeAddress);
}

// What a pane says instead of showing cells.
function noteFor(read) {
  if (!read.has) return `This run has no feature ${choice.feature}.`;
  if (!read.tiles) return "No map: the rows have no coordinates. The lines and regions are complete.";
  if (!hasTiles(choice.agg)) return "Tiles hold no weighted means: choose sum or mean to see the map.";
  if (!read.series.timestamps.includes(choice.timestamp)) return "This run has no data at this time.";
  return "";
}

// Where the tiles of a run are to be had; null where there are none.
function sourceOf({ run, tiles }) {
  const { feature, resolution, timestamp } = choice;
  return tiles && timestamp !== null ? { run, feature, resolution, timestamp } : null;
}

let rangeByZoom = null;

// Show the chosen time: maps, legend, panel.
async function showTime() {
  const mine = turn;
  const index = position();
  $("slider").value = index;
  const label = choice.timestamp === null ? NOTHING : moment(choice.timestamp, choice.resolution);
  $("now").textContent = label;
  $("slider").setAttribute("aria-valuetext", label);
  $("earlier").disabled = index <= 0;
  $("later").disabled = index < 0 || index >= shown.timestamps.length - 1;
  $("play").disabled = shown.timestamps.length < 2;
  writeAddress();
  rangeByZoom = hasTiles(choice.agg) ? await readRanges() : null;
  if (mine !== turn) return;
  await Promise.all([
    showRange(),
    ...shown.runs.map((read, i) => {
      const note = noteFor(read);
      panes[i].note.textContent = note;
      panes[i].note.hidden = !note;
      return panes[i].bins.show(note ? null : sourceOf(read), choice.agg, rangeAt);
    }),
    showPanel(),
  ]);
}

// Range of the colours at each zoom, over the runs that are compared; null where nothing says it.
async function readRanges() {
  const { feature, resolution, timestamp, span } = choice;
  const answers = await Promise.all(shown.runs.filter((read) => read.tiles).map(({ run }) =>
    api.ranges(run, feature, resolution, span === "all" ? null : timestamp)));
  const lists = answers.map(({ columns }) => [columns[`min_${column()}`], columns[`max_${column()}`]]);
  return Array.from({ length: 9 }, (_, zoom) => {
    const ends = lists.flatMap(([least, most]) => [least?.[zoom], most?.[zoom]])
      .filter((value) => value !== null && value !== undefined);
    return ends.length ? [Math.min(...ends), Math.max(...ends)] : null;
  });
}

const rangeAt = (zoom) => rangeByZoom?.[zoom] ?? [0, 0];

async function showRange() {
  if (!shown) return;
  const range = rangeByZoom?.[panes[0].bins.zoom];
  $("quantity").replaceChildren(el("b", {}, featureName()), unit() ? ` in ${unit()}` : "",
    el("span", { className: "how" }, `${WORDS[choice.agg.time]} over time, ${WORDS[choice.agg.space]} over space`));
  const ends = range ? [range[0], (range[0] + range[1]) / 2, range[1]] : [null, null, null];
  ["least", "middle", "most"].forEach((id, i) => { $(id).textContent = number(ends[i]); });
  $("ramp").hidden = !range;
  $("quantity").title = range ? `Range of all cells at zoom ${panes[0].bins.zoom}` : "";
}

// --- cells --------------------------------------------------------------------------------------------

// The numbers of a bin for each run: null where it is empty or not read yet.
async function figuresOf(cell) {
  return Promise.all(shown.runs.map(async (read, i) => {
    const { source } = panes[i].bins;
    if (!source) return null;
    const tile = await api.tile(source, cell.z, cell.x, cell.y);
    const place = tile.positions.get(cell.bin);
    if (place === undefined) return null;
    const all = Object.fromEntries(["sum", "mean"].flatMap((space) => ["sum", "mean"].map((time) =>
      [`s_${space}_t_${time}`, figure(tile, place, { space, time })])));
    return { ...all, weight: tile.weight[place] };
  }));
}

let hovered = null;

function hover(cell, x, y) {
  const box = $("tooltip");
  for (const { bins } of panes) bins?.mark(cell, "hovered");
  hovered = cell;
  box.hidden = true;
  if (!cell) return;
  figuresOf(cell).then((figures) => {
    if (hovered !== cell) return;
    box.replaceChildren(...figures.map((one, i) => el("div", {},
      ...(figures.length > 1 ? [el("span", { className: `dot line${i}` }), " "] : []),
      el("b", {}, number(one?.[column()])), unitAfter())));
    box.hidden = false;
    const frame = box.offsetParent.getBoundingClientRect();
    const left = Math.min(x - frame.left + 14, frame.width - box.offsetWidth - 6);
    const top = y - frame.top + 18 + box.offsetHeight > frame.height ? y - frame.top - box.offsetHeight - 10 : y - frame.top + 18;
    box.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }, complain);
}

function unpick() {
  picked = null;
  for (const { bins } of panes) bins?.mark(null, "picked");
}

function pick(cell) {
  return attempt(async () => {
    picked = cell && { cell, regions: null };
    for (const { bins } of panes) bins?.mark(cell, "picked");
    await showCell();
    if (!cell) return;
    const mine = picked;
    const read = shown.runs.find(({ has, about }) => has && about.levels.length);
    const answer = read ? await api.place(read.run, choice.feature, cell) : { regions: [], known: true };
    if (picked !== mine) return;
    picked.regions = answer;
    const first = answer.regions[0];
    if (first) {
      const level = levelsThere().at(-1);
      if (first[level]) [choice.level, choice.region] = [level, first[level]];
    }
    await showPanel();
  });
}

const FIGURES = [
  ["s_sum_t_sum", "sum of sums"], ["s_sum_t_mean", "sum of means"],
  ["s_mean_t_sum", "mean of sums"], ["s_mean_t_mean", "mean of means"],
];

async function showCell() {
  const box = $("cell");
  if (!picked) {
    box.replaceChildren(el("p", { className: "hint" }, "Click a cell on the map to read its numbers and to see its region over time. With the keyboard: move the map with the arrows, then press Enter."));
    return;
  }
  const { cell, regions } = picked;
  const figures = await figuresOf(cell);
  const heads = shown.runs.length > 1
    ? [el("tr", {}, el("td"), ...shown.runs.map(({ run }, i) =>
      el("th", { scope: "col" }, el("span", { className: `dot line${i}` }), ` ${run.run_id}`)))] : [];
  const rows = [...FIGURES, ["weight", "cells counted"]].map(([name, text]) => {
    const row = el("tr", { className: name === column() ? "chosen" : "" },
      el("th", { scope: "row" }, text, el("code", {}, name === "weight" ? "s_count" : name)),
      ...figures.map((one) => valueCell(one?.[name])));
    row.dataset.figure = name;
    return row;
  });
  const empty = figures.every((one) => one === null);
  box.replaceChildren(
    el("p", { className: "where" }, coordinates(centreOf(cell)),
      el("small", {}, `zoom ${cell.z}, tile ${cell.x}/${cell.y}, bin ${cell.bin}`)),
    empty ? el("p", { className: "hint" }, "No data in this cell at this time.") : el("table", { className: "figures" }, ...heads, ...rows),
    ...regionsOfCell(regions),
  );
}

const valueCell = (value) => el("td", { title: value === null || value === undefined ? "" : String(value) }, number(value));

function regionsOfCell(answer) {
  if (!answer) return [];
  if (!answer.regions.length) {
    return answer.known ? [] : [el("p", { className: "hint" }, "Which region this is cannot be told: there is neither a lake nor a raw.csv for this run. Choose the region below.")];
  }
  const level = levelsThere().at(-1);
  const buttons = answer.regions.slice(0, 12).map((ids) => regionButton(level, ids[level], lastName(ids[level])));
  const more = answer.regions.length - buttons.length;
  return [el("p", { className: "chips" }, answer.regions.length > 1 ? "Regions here: " : "Region: ", ...buttons,
    ...(more > 0 ? [` and ${more} more`] : []))];
}

function regionButton(level, id, text) {
  const button = el("button", { type: "button", className: "chip", title: regionName(id) }, text);
  button.setAttribute("aria-pressed", String(choice.level === level && choice.region === id));
  button.addEventListener("click", () => attempt(() => chooseRegion(level, id)));
  return button;
}

// --- panel --------------------------------------------------------------------------------------------

async function chooseRegion(level, id) {
  choice.region = id;
  if (level) choice.level = level;
  await showPanel();
}

async function showPanel() {
  $("level").value = choice.level ?? "";
  writeAddress();
  await Promise.all([showCell(), showSeries(), showRegions()]);
}

async function showSeries() {
  const { region, level, feature, resolution, timestamp } = choice;
  const mine = turn;
  const read = await Promise.all(shown.runs.map(({ run, has, series }) => {
    if (!has) return { timestamps: [], columns: {} };
    return region ? api.timeseries(run, feature, resolution, level, region) : series;
  }));
  if (mine !== turn || region !== choice.region || timestamp !== choice.timestamp) return;
  const lines = read.map(({ timestamps, columns }, i) => ({
    name: shown.runs[i].run.run_id, timestamps, values: columns[column()] ?? timestamps.map(() => null),
  }));
  const box = $("series");
  const readout = el("div", { className: "readout" });
  const say = (when) => readout.replaceChildren(el("span", { className: "when" }, moment(when, resolution)),
    ...lines.map((line, i) => el("span", {}, el("span", { className: `dot line${i}` }), " ",
      ...(lines.length > 1 ? [el("span", { className: "name" }, `${line.name} `)] : []),
      el("b", {}, at(line, when)), unitAfter())));
  const parts = [path(), readout];
  if (lines.some(({ values }) => values.some((value) => value !== null))) {
    say(timestamp);
    const label = `${featureName()}, ${region ? regionName(region) : "all places"}, ${column()}`;
    const drawn = chart(Math.max(box.clientWidth, 240), {
      lines, now: timestamp, resolution, label, onPick: (when) => { stopPlaying(); goTo(shown.timestamps.indexOf(when)); },
    });
    drawn.addEventListener("near", ({ detail }) => say(detail ?? choice.timestamp));
    parts.push(drawn, tableOf(lines));
  } else {
    parts.push(el("p", { className: "hint" }, `No figures ${column()} here.`));
  }
  const open = box.querySelector("details")?.open;
  box.replaceChildren(...parts);
  if (open) box.querySelector("details")?.setAttribute("open", "");
}

// Where the line is about, with the way up: all places › Kenya › Nakuru.
function path() {
  const { region, level } = choice;
  const all = el("button", { type: "button", className: "chip" }, "All places");
  all.setAttribute("aria-pressed", String(!region));
  all.addEventListener("click", () => attempt(() => chooseRegion(null, null)));
  const crumbs = [all];
  if (region) {
    const names = region.split(SEPARATOR);
    const depth = LEVELS.indexOf(level);
    if (names.length === depth + 1) {
      names.forEach((name, i) => {
        const id = names.slice(0, i + 1).join(SEPARATOR);
        if (shown.runs.some(({ lists }) => lists[LEVELS[i]]?.includes(id))) crumbs.push(regionButton(LEVELS[i], id, name));
      });
    } else {
      crumbs.push(regionButton(level, region, region));
    }
  }
  return el("p", { className: "chips path" }, ...crumbs.flatMap((crumb, i) => (i ? [" › ", crumb] : [crumb])));
}

function tableOf(lines) {
  const { resolution } = choice;
  const head = el("tr", {}, el("th", { scope: "col" }, "Time"), ...lines.map(({ name }) => el("th", { scope: "col" }, name)));
  const times = [...new Set(lines.flatMap(({ timestamps }) => timestamps))].sort((a, b) => a - b);
  const rows = times.map((when) => el("tr", {}, el("th", { scope: "row" }, moment(when, resolution)),
    ...lines.map(({ timestamps, values }) => valueCell(values[timestamps.indexOf(when)]))));
  return el("details", {}, el("summary", {}, "Numbers"),
    el("div", { className: "scroll" }, el("table", { className: "figures" }, head, ...rows)));
}

let ranked = [];

async function showRegions() {
  const { level, feature, resolution, timestamp } = choice;
  if (!level || timestamp === null) {
    ranked = [];
    $("regions").replaceChildren(el("p", { className: "hint" }, "The rows name no regions."));
    return;
  }
  const mine = turn;
  const answers = await Promise.all(shown.runs.map(({ run, has }) =>
    (has ? api.regionalMap(run, feature, resolution, level, timestamp) : { ids: [], columns: {} })));
  if (mine !== turn || level !== choice.level || timestamp !== choice.timestamp) return;
  const byRun = answers.map(({ ids, columns }) => new Map(ids.map((id, i) => [id, columns[column()]?.[i] ?? null])));
  const ids = [...new Set(shown.runs.flatMap(({ lists }) => lists[level] ?? []))];
  ranked = ids.map((id) => ({ id, values: byRun.map((values) => values.get(id) ?? null) }));
  ranked.sort((one, other) => (other.values[0] ?? -Infinity) - (one.values[0] ?? -Infinity) || (one.id < other.id ? -1 : 1));
  showFound();
}

function showFound() {
  const wanted = $("find").value.trim().toLowerCase();
  const found = ranked.filter(({ id }) => regionName(id).toLowerCase().includes(wanted));
  const most = Math.max(...ranked.flatMap(({ values }) => values).filter((value) => value !== null).map(Math.abs), 0);
  const items = found.slice(0, MOST_REGIONS).map(({ id, values }) => {
    const bars = values.map((value, i) => {
      const share = most > 0 && value !== null ? Math.abs(value) / most : 0;
      return svg("svg", { class: `bar line${i}`, viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("rect", { width: 100 * share, height: 6 }));
    });
    const button = el("button", { type: "button", className: "region", title: regionName(id) },
      el("span", { className: "name" }, lastName(id)), el("span", { className: "bars" }, ...bars),
      el("span", { className: "values" }, ...values.map((value) => el("span", { title: String(value ?? "") }, brief(value)))));
    button.setAttribute("aria-pressed", String(choice.region === id));
    button.addEventListener("click", () => attempt(() => chooseRegion(choice.level, id)));
    return el("li", {}, button);
  });
  const rest = found.length - items.length;
  $("regions").replaceChildren(
    items.length ? el("ul", { className: "ranking" }, ...items) : el("p", { className: "hint" }, "No region is called so."),
    ...(rest > 0 ? [el("p", { className: "hint" }, `and ${rest} more: type a part of the name`)] : []));
}

listen();
attempt(start);
