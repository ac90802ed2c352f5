// The page: what is chosen, and everything that follows from it. The choice lives in the address (address.js).
//
// One version at a time: everything of a run is asked for by the version that its description came with. An
// answer that says the version is gone makes the page read all of it anew, and so does a look every few seconds.

import * as address from "./address.js";
import { LEVELS, WORDS } from "./address.js";
import * as api from "./api.js";
import { DIFFERENCE, SCALES, Scale, learn } from "./colours.js";
import { at, chart } from "./chart.js";
import { NOTHING, SEPARATOR, brief, coordinates, el, lastName, moment, number, plain, refill, regionName, svg, takeAway } from "./format.js";
import { centreOf, cornersOf, figure, hasTiles } from "./grid.js";
import { BinMap, together } from "./map.js";
import * as save from "./save.js";

const MOST_REGIONS = 200;
const MOST_KEPT = 5;
const MOST_NAMES = 80;
const FRAME = 900;  // milliseconds of a month while playing
const LOOK = 5000;  // milliseconds between looks whether what is shown still stands
const RETRY = 2000;  // milliseconds between looks for a datacube that is being published

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
let shown = null;  // what was read for it: descriptions with their versions, timestamps
let picked = null;  // {cell, regions}
let hovered = null;  // {cell or circle, x, y}
let playing = null;
let separate = null;  // stops the two maps moving together
let turn = 0;  // counts what the maps show: an answer for an earlier one is dropped
let panelTurn = 0;  // the same for the numbers beside them
let step = false;  // whether the next address is one to go back to
let renewing = false;
let drawnByKeyboard = false;  // the rectangle that is being drawn
let isGone = false;  // whether the address names a version that has no tables any more
const histories = new Map();

// --- reading ------------------------------------------------------------------------------------------

const sameDatacube = (one, other) => one.model_id === other.model_id && one.run_id === other.run_id;
const same = (one, other) => sameDatacube(one, other) && (one.number ?? null) === (other.number ?? null);
const nameOf = (run) => `${run.model_id} ${run.run_id}${run.number ? ` version ${run.number}` : ""}`;
const areVersions = () => Boolean(choice.other && sameDatacube(choice.run, choice.other));
// What tells a run from the other one that is shown.
const labelOf = (run) => (!areVersions() ? `${run.run_id}${run.number ? ` version ${run.number}` : ""}`
  : run.number ? `version ${run.number}` : "published");

// Of two versions of a datacube the older comes first, so that a difference is what the later one changed.
function chosenRuns() {
  const age = ({ number: which }) => (which ? Number(which) : Infinity);
  const both = [choice.run, choice.other].filter(Boolean);
  return areVersions() ? both.sort((one, other) => age(one) - age(other)) : both;
}
const column = () => `s_${choice.agg.space}_t_${choice.agg.time}`;
const words = () => shown.features.find(({ name }) => name === choice.feature) ?? { name: choice.feature };
const featureName = () => words().display_name || choice.feature;
const unit = () => words().unit || "";
const unitAfter = () => (unit() ? ` ${unit()}` : "");
const isDifference = () => Boolean(choice.other && choice.compared === "difference");
const ofCells = () => choice.layer === "cells" && !choice.breakdown;
const keeps = (value) => value !== null && (choice.low === null || value >= choice.low) && (choice.high === null || value <= choice.high);

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
  if (problem instanceof api.Refusal && problem.reason) {
    renew().catch(complain);
  } else if (problem instanceof api.Refusal) {
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

function news(text) {
  $("news").textContent = text;
  $("news").hidden = !text;
}

async function start() {
  learn(await api.palettes());
  $("palette").replaceChildren(...["viridis", "cividis", "magma", "blues"].map((name) => el("option", { value: name, textContent: name })));
  await list();
}

const newest = () => runs.toSorted((one, other) => (other.published ?? 0) - (one.published ?? 0));

async function list() {
  const listed = await api.listRuns();
  runs = listed.runs;
  $("empty").hidden = runs.length > 0 || location.hash.includes("model=");
  if (!$("empty").hidden) {
    $("shown").hidden = $("choice").hidden = true;
    $("looked").replaceChildren(...listed.looked.map((url) => el("li", {}, el("code", {}, url))));
    return;
  }
  await follow();
}

// Show what the address says.
async function follow() {
  stopPlaying();
  unpick();
  hideTooltip();
  $("find").value = "";
  const wanted = address.read(runs, newest());
  if (wanted.missing) {
    await sayMissing(wanted.missing);
    return;
  }
  $("missing").hidden = true;
  $("shown").hidden = $("choice").hidden = false;
  choice = wanted;
  const { place } = choice;
  await load({ fit: !place, place });
}

// A run that the address names and that is not there: the address stays, and is tried again. Of a version that has no
// tables any more, `reason` says so; it does not come back.
async function sayMissing(run, reason = "") {
  const mine = ++turn;
  const hadFocus = ["shown", "choice"].some((id) => $(id).contains(document.activeElement));
  choice = null;
  shown = null;
  isGone = Boolean(reason);
  tell("");
  news("");
  $("shown").hidden = $("choice").hidden = true;
  $("missing-head").textContent = isGone ? "This version is not here" : "This datacube is not here";
  $("why").replaceChildren(...(isGone ? [reason] : [el("b", {}, nameOf(run)),
    " is not among the complete datacubes. It does not exist, was withdrawn, or is being published right now. This page looks again every few seconds, and the address stays as it is."]));
  const kept = isGone ? await api.versions(run).catch(() => []) : [];
  if (mine !== turn) return;
  const others = [
    ...newest().filter((one) => sameDatacube(one, run)), ...kept.filter((one) => one.kept).map(({ number: which }) => ({ ...run, number: which })),
    ...newest().filter((one) => one.model_id === run.model_id && !sameDatacube(one, run)),
    ...newest().filter((one) => one.model_id !== run.model_id),
  ].slice(0, 8);
  $("instead").textContent = others.length ? "What there is, the newest first:" : "Nothing else is published here.";
  $("others").replaceChildren(...others.map((one) =>
    el("li", {}, el("a", { href: `#${new URLSearchParams({ model: one.model_id, run: one.run_id, ...(one.number ? { version: one.number } : {}) })}` }, nameOf(one)))));
  $("missing").hidden = false;
  if (hadFocus) $("missing-head").focus();
}

// The history of a datacube; read once for each version that is found published.
function versionsOf(run) {
  const key = JSON.stringify([run.model_id, run.run_id, run.version ?? null]);
  if (!histories.has(key)) {
    const asked = api.versions(run);
    histories.set(key, asked);
    asked.catch(() => histories.delete(key));
  }
  return histories.get(key);
}

// Read everything for the chosen runs and feature, then show it.
async function load({ fit = false, place = null } = {}) {
  const mine = ++turn;
  panelTurn += 1;
  tell("");
  hideTooltip();
  const found = await gather();
  if (mine !== turn) return;
  shown = found;
  settle();
  fillControls();
  layOutMaps();
  if (place) panes[0].bins.map.setView(place, place.zoom, { animate: false });
  if (fit) await fitMap();
  if (mine !== turn) return;
  await showTime();
}

async function gather() {
  const described = await Promise.all(chosenRuns().map(api.describe));
  const features = described[0].features;
  if (!features.some(({ name }) => name === choice.feature)) {
    const first = features[0]?.name ?? null;
    if (choice.feature && first !== null) news(`${nameOf(chosenRuns()[0])} has no feature ${choice.feature}: this is ${first}.`);
    choice.feature = first;
  }
  const { feature, resolution } = choice;
  if (feature === null) throw new api.Refusal("This datacube has no feature: no row of it was usable.");
  const read = await Promise.all(described.map(async (about, i) => {
    const run = { ...chosenRuns()[i], version: about.version };
    const has = about.features.some(({ name }) => name === feature);
    return {
      run, about, has, tiles: about.has_tiles && has,
      series: has ? await api.timeseries(run, feature, resolution) : { timestamps: [], columns: {} },
      lists: has && about.levels.length ? await api.regionLists(run, feature) : {},
      qualifiers: has && about.levels.length ? await api.qualifiers(run, feature) : {},
      versions: await versionsOf(run),
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
  const known = ({ level, region }) => shown.runs.some(({ lists }) => lists[level]?.includes(region));
  if (!known(choice)) choice.region = null;
  choice.kept = choice.kept.filter(known);
  const values = choice.breakdown && shown.runs[0].qualifiers[choice.breakdown.qualifier];
  if (choice.breakdown && !values?.includes(choice.breakdown.value)) choice.breakdown = null;
  if (!levels.length) choice.layer = "cells";
}

const levelsThere = () => LEVELS.filter((level) => shown.runs.some(({ lists }) => lists[level]?.length));

// --- one version --------------------------------------------------------------------------------------

// What is shown does not stand any more: wait for what takes its place, and show all of that.
async function renew() {
  if (renewing || !choice) return;
  renewing = true;
  stopPlaying();
  hideTooltip();
  const wanted = choice;
  try {
    for (;;) {
      const [gone, problem] = await firstGone(wanted);
      if (choice !== wanted) return;
      if (!gone) break;
      if (problem.reason === "gone") {
        await sayMissing(gone, problem.message);
        return;
      }
      tell(problem.reason ? "" : problem.message);
      news(`${nameOf(gone)} is being published anew, or was withdrawn. What stands here is what it was before; the page goes on when the new one is complete.`);
      await new Promise((done) => setTimeout(done, RETRY));
      if (choice !== wanted) return;
    }
    blank();
    await attempt(() => load());
    if (choice === wanted) news(`${chosenRuns().filter((run) => !run.number).map(nameOf).join(" or ")} was published anew. Everything shown is of the new version.`);
  } finally {
    renewing = false;
  }
}

// Nothing of the version before may stand beside the first of the new one.
function blank() {
  turn += 1;
  panelTurn += 1;
  for (const { bins } of panes) {
    bins?.show([], NO_LOOK);
    bins?.showCircles([]);
  }
  $("ramp").hidden = true;
  for (const id of ["cell", "series", "regions"]) $(id).replaceChildren(el("p", { className: "hint" }, "Reading the new version ..."));
}

async function firstGone(wanted) {
  for (const run of [wanted.run, wanted.other].filter(Boolean)) {
    try {
      await api.version(run);
    } catch (problem) {
      return [run, problem];
    }
  }
  return [null, null];
}

// A look now and then: has anything been published anew, or has what was missing come?
async function lookAgain() {
  if (document.hidden || renewing) return;
  try {
    if (!$("missing").hidden) {
      if (isGone) return;
      const { runs: found } = await api.listRuns();
      runs = found;
      if (!$("missing").hidden && !address.read(runs, newest()).missing) await attempt(follow);
    } else if (shown && pending === 0) {
      const before = shown;
      const versions = await Promise.all(before.runs.map(({ run }) => api.version(run)));
      if (shown === before && before.runs.some(({ run }, i) => run.version !== versions[i])) await renew();
    }
  } catch (problem) {
    complain(problem);
  }
}

// --- controls -----------------------------------------------------------------------------------------

function fillControls() {
  // A version may be shown of a datacube that is not published now.
  const known = runs.some((run) => sameDatacube(run, choice.run)) ? runs
    : [...runs, { ...choice.run, number: null, is_dataset: choice.run.run_id === "indicator" }];
  const models = [...new Map(known.map((run) => [run.model_id, run])).values()];
  const groups = [["Models", models.filter((run) => !run.is_dataset)], ["Datasets", models.filter((run) => run.is_dataset)]];
  fill($("model"), groups.map(([label, members]) => [label, members.map((run) => [run.model_id, run.model_id])]),
    choice.run.model_id);
  const siblings = known.filter((run) => run.model_id === choice.run.model_id);
  fill($("run"), [["", siblings.map((run) => [runKey(run), run.run_id])]], runKey({ ...choice.run, number: null }));
  const { versions } = shown.runs.find(({ run }) => sameDatacube(run, choice.run));
  const ofVersions = versions.filter(({ state }) => state !== "broken off").map(({ number: which, state, published, kept }) => {
    const text = `${which}, ${new Date(published * 1000).toISOString().slice(0, 16).replace("T", " ")}${state === "published" ? ", published" : ""}`;
    return [String(which), kept ? text : `${text}: its tables are gone`, !kept];
  });
  $("which").hidden = ofVersions.length < 2 && !choice.run.number;
  fill($("version"), [["", [["", "the published one"], ...ofVersions]]], String(choice.run.number ?? ""));
  // Runs of the same model come first: these are what one mostly compares.
  const others = models.map((run) => run.model_id)
    .sort((one, other) => (other === choice.run.model_id) - (one === choice.run.model_id))
    .map((model) => [model, runs.filter((run) => run.model_id === model && !sameDatacube(run, choice.run))]);
  const otherVersions = $("which").hidden ? [] : [...(choice.run.number && runs.some((run) => sameDatacube(run, choice.run)) ? [["", "the published one", false]] : []), ...ofVersions]
    .filter(([which]) => which !== String(choice.run.number ?? ""))
    .map(([which, text, isDisabled]) => [runKey({ ...choice.run, number: which || null }), which ? `version ${text}` : text, isDisabled]);
  fill($("other"), [["", [["", "nothing"]]], [`Versions of ${choice.run.run_id}`, otherVersions], ...others.map(([model, members]) =>
    [model, members.map((run) => [runKey(run), run.run_id])])], choice.other ? runKey(choice.other) : "");
  $("how").hidden = !choice.other;
  $("compared").value = choice.compared;
  fill($("feature"), [["", shown.features.map(({ name, display_name }) =>
    [name, display_name && display_name.toLowerCase() !== name.toLowerCase() ? `${display_name} (${name})` : name])]],
  choice.feature);
  fill($("level"), [["", levelsThere().map((level) => [level, level])]], choice.level);
  const qualifiers = Object.entries(shown.runs[0].qualifiers);
  $("broken").hidden = !qualifiers.length;
  fill($("breakdown"), [["", [["", "no"]]], ...qualifiers.map(([qualifier, values]) =>
    [qualifier, values.map((value) => [JSON.stringify([qualifier, value]), `${qualifier}: ${value}`])])],
  choice.breakdown ? JSON.stringify([choice.breakdown.qualifier, choice.breakdown.value]) : "");
  for (const [name, value] of [["resolution", choice.resolution], ["time", choice.agg.time], ["space", choice.agg.space]]) {
    for (const radio of document.getElementsByName(name)) radio.checked = radio.value === value;
  }
  for (const label of document.querySelectorAll(".weighted")) label.hidden = !shown.weighted;
  for (const id of ["span", "scale", "palette", "cells", "layer"]) $(id).value = String(choice[id]);
  for (const id of ["low", "high"]) $(id).value = choice[id] ?? "";
  $("names").checked = choice.names;
  const slider = $("slider");
  slider.max = Math.max(shown.timestamps.length - 1, 0);
  slider.disabled = shown.timestamps.length < 2;
  $("about").href = `datacube.html#${new URLSearchParams({ model: choice.run.model_id, run: choice.run.run_id })}`;
}

const runKey = (run) => JSON.stringify([run.model_id, run.run_id, run.number ? String(run.number) : null]);
function runOfKey(key) {
  if (!key) return null;
  const [model_id, run_id, which] = JSON.parse(key);
  return { ...runs.find((run) => sameDatacube(run, { model_id, run_id })), model_id, run_id, number: which };
}

// Groups of options: [[label, [[value, text, disabled]]]]; a group without label stands by itself.
function fill(select, groups, value) {
  select.replaceChildren(...groups.filter(([, members]) => members.length).flatMap(([label, members]) => {
    const options = members.map(([key, text, disabled = false]) => el("option", { value: key, textContent: text, disabled }));
    return label ? [el("optgroup", { label }, ...options)] : options;
  }));
  select.value = value ?? "";
}

function listen() {
  const on = (id, change, show) => $(id).addEventListener("change", () => attempt(async () => {
    stopPlaying();
    step = true;
    news("");
    change($(id));
    await show();
  }));
  const anew = (id, change, options) => on(id, change, () => load(options));
  anew("model", ({ value }) => {
    choice.run = newest().find((run) => run.model_id === value);
    [choice.other, choice.region, choice.kept, choice.area] = [null, null, [], null];
    unpick();
  }, { fit: true });
  anew("run", ({ value }) => {
    choice.run = runOfKey(value);
    // Versions are compared with others of the same datacube.
    if (choice.other && (same(choice.run, choice.other) || choice.other.number)) choice.other = null;
  });
  anew("version", ({ value }) => {
    choice.run = { ...choice.run, number: value || null };
    if (choice.other && same(choice.run, choice.other)) choice.other = null;
  });
  anew("other", ({ value }) => { choice.other = runOfKey(value); });
  anew("compared", ({ value }) => { choice.compared = value; });
  anew("feature", ({ value }) => { choice.feature = value; });
  for (const radio of document.getElementsByName("resolution")) {
    radio.addEventListener("change", () => attempt(async () => {
      stopPlaying();
      step = true;
      choice.resolution = radio.value;
      // The year that the month is in, or its first month.
      if (radio.value === "year" && choice.timestamp !== null) {
        choice.timestamp = Date.UTC(new Date(choice.timestamp).getUTCFullYear(), 0);
      }
      await load();
    }));
  }
  for (const axis of ["time", "space"]) {
    for (const radio of document.getElementsByName(axis)) {
      radio.addEventListener("change", () => attempt(async () => {
        step = true;
        choice.agg = { ...choice.agg, [axis]: radio.value };
        await showTime();
      }));
    }
  }
  $("slider").addEventListener("input", () => goTo(Number($("slider").value)));
  $("earlier").addEventListener("click", () => move(-1));
  $("later").addEventListener("click", () => move(1));
  $("play").addEventListener("click", () => (playing ? stopPlaying() : startPlaying()));
  for (const id of ["span", "scale", "palette", "layer"]) on(id, ({ value }) => { choice[id] = value; }, showTime);
  on("breakdown", ({ value }) => {
    const [qualifier, one] = value ? JSON.parse(value) : [];
    choice.breakdown = value ? { qualifier, value: one } : null;
  }, showTime);
  for (const id of ["low", "high"]) {
    on(id, ({ value, valueAsNumber }) => { choice[id] = value === "" ? null : valueAsNumber; }, showTime);
    // What was typed and not entered yet.
    $(id).addEventListener("keydown", ({ key }) => { if (key === "Escape") $(id).value = choice[id] ?? ""; });
  }
  on("names", ({ checked }) => { choice.names = checked; }, showNames);
  on("cells", ({ value }) => {
    choice.cells = Number(value);
    for (const { bins } of panes) bins?.setCells(choice.cells);
  }, showTime);
  on("level", ({ value }) => { [choice.level, choice.region] = [value, null]; }, showTime);
  $("find").addEventListener("input", showFound);
  $("again").addEventListener("click", () => location.reload());
  $("retry").addEventListener("click", () => attempt(list));
  $("draw").addEventListener("click", ({ detail }) => {
    // A click of the keyboard has no number.
    if ($("draw").getAttribute("aria-pressed") === "true") endDrawing();
    else drawing(true, detail === 0);
  });
  $("view").addEventListener("click", () => setArea(panes[0].bins.inSight));
  $("undraw").addEventListener("click", () => setArea(null));
  $("keep").addEventListener("click", keepLine);
  $("lines").addEventListener("click", saveLines);
  $("ranking").addEventListener("click", saveRegions);
  $("picture").addEventListener("click", () => attempt(savePicture));
  $("values").addEventListener("click", () => attempt(saveValues));
  window.addEventListener("hashchange", () => attempt(follow));
  const resized = new ResizeObserver(() => { for (const { bins } of panes) bins?.map.invalidateSize({ animate: false }); });
  for (const { map } of panes) resized.observe(map);
  let width = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (shown && contentRect.width !== width) attempt(showPanel);
    width = contentRect.width;
  }).observe($("panel"));
  // Leaflet gives a map the focus at each click; only to a keyboard it means anything.
  document.addEventListener("keydown", () => document.body.classList.add("keys"), true);
  document.addEventListener("keydown", ({ key }) => {
    if (key === "Escape" && $("draw").getAttribute("aria-pressed") === "true") endDrawing();
  });
  document.addEventListener("pointerdown", () => document.body.classList.remove("keys"), true);
  setInterval(lookAgain, LOOK);
}

// --- time ---------------------------------------------------------------------------------------------

const position = () => shown.timestamps.indexOf(choice.timestamp);

function goTo(index) {
  const timestamp = shown?.timestamps[index];
  if (timestamp === undefined || timestamp === choice.timestamp) return Promise.resolve();
  choice.timestamp = timestamp;
  return attempt(showTime);
}

function move(by) {
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

// The runs of each map: the second beside the first, or both in one as their difference.
const mapped = () => (isDifference() ? [shown.runs] : shown.runs.map((read) => [read]));

function layOutMaps() {
  const maps = mapped();
  panes.forEach((pane, i) => {
    pane.figure.hidden = !maps[i];
    if (!maps[i]) {
      pane.bins?.show([], NO_LOOK);
      return;
    }
    const [first, second] = maps[i];
    pane.title.replaceChildren(...(second
      ? [el("b", {}, labelOf(second.run)), " minus ", el("b", {}, labelOf(first.run))]
      : [el("span", { className: `dot line${i}` }), ` ${areVersions() ? first.run.run_id : first.run.model_id} `, el("b", {}, labelOf(first.run))]));
    pane.title.hidden = shown.runs.length < 2 && !first.run.number;
    pane.bins ??= new BinMap(pane.map, {
      onPick: pick, onHover: hover, onProblem: complain, onBusy: busy, onArea: setArea, onCorner: () => news("Move the map to the other corner, then press Enter."),
      onZoom: () => { if (shown) attempt(showRange); },
    });
    pane.map.setAttribute("aria-label", `Map of ${maps[i].map(({ run }) => nameOf(run)).join(" and ")}. Arrows move, plus and minus zoom, Enter reads the cell in the middle.`);
    if (pane.cells !== choice.cells) pane.bins.setCells(choice.cells);
    pane.cells = choice.cells;
    pane.bins.map.invalidateSize({ animate: false });
    pane.bins.showArea(choice.area);
  });
  $("undraw").hidden = !choice.area;
  separate?.();
  separate = maps.length > 1 ? together(panes[0].bins, panes[1].bins) : null;
  panes[0].bins.map.off("moveend", moved).on("moveend", moved);
}

function moved() {
  if (!shown || !choice) return;
  writeAddress();
  showNames().catch(complain);
  if (scaleFollowsView()) attempt(showTime);
}

function writeAddress() {
  address.write(choice, panes[0].bins?.map, step);
  step = false;
}

async function fitMap() {
  const source = shown.runs[0].tiles ? sourceOf(shown.runs[0]) : null;
  if (!source || !await panes[0].bins.fit(source)) panes[0].bins.map.fitBounds([[-58, -178], [76, 178]], { animate: false });
}

const NO_LOOK = { agg: { space: "mean", time: "mean" }, scaleAt: () => null, keeps: () => false };

const isAllMissing = ({ series }) => {
  const values = series.columns[column()] ?? [];
  return values.length > 0 && values.every((value) => value === null) && (series.columns.s_count ?? []).every((count) => !count);
};

// What a pane says instead of showing anything.
function noteFor(reads) {
  for (const read of reads) {
    const which = reads.length > 1 ? nameOf(read.run) : "This run";
    if (!read.has) return `${which} has no feature ${choice.feature}.`;
    if (!read.series.timestamps.length || isAllMissing(read)) return `${which} has no values of ${featureName()}: every one is missing.`;
    if (ofCells() && !read.tiles) return "No map: the rows have no coordinates. The lines and regions are complete.";
    if (ofCells() && !hasTiles(choice.agg)) return "Tiles hold no weighted means: choose sum or mean, or show regions as circles.";
    if (!read.series.timestamps.includes(choice.timestamp)) return `${which} has no data at this time.`;
  }
  return "";
}

// Where the tiles of a run are to be had; null where there are none.
function sourceOf({ run, tiles }) {
  const { feature, resolution, timestamp } = choice;
  return tiles && timestamp !== null ? { run, feature, resolution, timestamp } : null;
}

let ranges = null;  // of the cells by zoom, or of the circles at any; null where nothing says it
let look = NO_LOOK;
let circles = [];  // per map

// Show the chosen time: maps, legend, panel.
async function showTime() {
  const mine = ++turn;
  hideTooltip();
  const index = position();
  $("slider").value = index;
  const label = choice.timestamp === null ? NOTHING : moment(choice.timestamp, choice.resolution);
  $("now").textContent = label;
  $("slider").setAttribute("aria-valuetext", label);
  takeAway($("earlier"), "disabled", index <= 0, $("slider"));
  takeAway($("later"), "disabled", index < 0 || index >= shown.timestamps.length - 1, $("slider"));
  $("play").disabled = shown.timestamps.length < 2;
  // Tiles hold no breakdown: what is broken down is shown as circles.
  $("layer").value = ofCells() ? "cells" : "regions";
  $("layer").disabled = !levelsThere().length || Boolean(choice.breakdown);
  writeAddress();
  const maps = mapped();
  const notes = maps.map(noteFor);
  const sources = maps.map((reads, i) => (notes[i] || !ofCells() ? [] : reads.map(sourceOf)));
  const [found, drawn] = await Promise.all([
    ofCells() ? rangesOfCells(maps, sources) : null,
    ofCells() ? [] : Promise.all(maps.map((reads, i) => (notes[i] ? [] : circlesOf(reads)))),
  ]);
  if (mine !== turn) return;
  const all = drawn.flat().map(({ value }) => value).filter((value) => value !== null);
  ranges = ofCells() ? found.ranges : Array(9).fill(extent(all));
  look = lookOf(ofCells() ? found.values : all);
  circles = drawn;
  await Promise.all([
    showRange(),
    ...maps.map((_, i) => {
      panes[i].note.textContent = notes[i];
      panes[i].note.hidden = !notes[i];
      panes[i].bins.showCircles(
        (drawn[i] ?? []).filter((one) => one.at && keeps(one.value)).map((one) => ({ ...one, colour: look.scaleAt(0).colour(one.value) })),
        (id) => attempt(() => chooseRegion(choice.level, id)), hoverCircle,
      );
      return panes[i].bins.show(sources[i], look);
    }),
    showNames(),
    showPanel(),
  ]);
  if (mine === turn) tellHovered();
}

const palette = () => (isDifference() ? DIFFERENCE : choice.palette);
const scaleKind = () => (isDifference() ? "linear" : choice.scale);

function lookOf(values) {
  const made = new Map();
  const scaleAt = (zoom) => {
    if (!made.has(zoom)) made.set(zoom, new Scale(scaleKind(), palette(), ranges?.[zoom] ?? [0, 0], values));
    return made.get(zoom);
  };
  return { agg: choice.agg, scaleAt, keeps };
}

// Whether the colours depend on what is in sight, and not on the whole map alone.
const scaleFollowsView = () => ofCells() && shown && hasTiles(choice.agg)
  && (isDifference() || Scale.needsValues(scaleKind(), ranges?.[panes[0].bins.zoom] ?? [0, 0]));

const extent = (values) => (values.length
  ? [values.reduce((one, other) => Math.min(one, other)), values.reduce((one, other) => Math.max(one, other))] : null);

// Range of the colours at each zoom, over the runs that are compared, and the values in sight where they matter.
async function rangesOfCells(maps, sources) {
  if (!hasTiles(choice.agg)) return { ranges: null, values: [] };
  const inSight = async () => (await Promise.all(maps.map((_, i) =>
    (sources[i].length ? panes[i].bins.values(sources[i], choice.agg) : [])))).flat().map(({ value }) => value);
  if (isDifference()) {
    const values = await inSight();
    const most = values.reduce((one, other) => Math.max(one, Math.abs(other)), 0);
    return { ranges: Array(9).fill(values.length ? [-most, most] : null), values };
  }
  const { feature, resolution, timestamp, span } = choice;
  const answers = await Promise.all(shown.runs.filter((read) => read.tiles).map(({ run }) =>
    api.ranges(run, feature, resolution, span === "all" ? null : timestamp)));
  const lists = answers.map(({ columns }) => [columns[`min_${column()}`], columns[`max_${column()}`]]);
  const found = Array.from({ length: 9 }, (_, zoom) => extent(lists
    .flatMap(([least, most]) => [least?.[zoom], most?.[zoom]]).filter((value) => value !== null && value !== undefined)));
  const needed = found.some((range) => range && Scale.needsValues(scaleKind(), range));
  return { ranges: found, values: needed ? await inSight() : [] };
}

// Regions of a map as circles, with their values at this time.
async function circlesOf(reads) {
  const { feature, resolution, level, timestamp, breakdown } = choice;
  if (!level) return [];
  const [middles, ...tables] = await Promise.all([
    api.places(reads[0].run, feature, level),
    ...reads.map(({ run }) => api.regionalMap(run, feature, resolution, level, timestamp, breakdown)),
  ]);
  const [first, second] = tables.map(({ ids, columns }) => new Map(ids.map((id, i) => [id, columns[column()]?.[i] ?? null])));
  return [...first].map(([id, value]) => {
    const other = second?.get(id) ?? null;
    const shownValue = !second ? value : value === null || other === null ? null : other - value;
    return { id, text: regionName(id), at: middles.places[id] ?? null, value: shownValue };
  });
}

async function showRange() {
  if (!shown) return;
  // A difference has colours of its own, as far to either side.
  for (const id of ["scale", "palette"]) $(id).disabled = isDifference();
  const range = ranges?.[panes[0].bins.zoom];
  const how = `${WORDS[choice.agg.time]} over time, ${WORDS[choice.agg.space]} over space`;
  const more = [
    choice.breakdown ? `${choice.breakdown.qualifier}: ${choice.breakdown.value}` : "",
    isDifference() ? "difference" : "",
    scaleKind() === "linear" ? "" : SCALES[scaleKind()],
  ].filter(Boolean);
  $("quantity").replaceChildren(el("b", {}, featureName()), unit() ? ` in ${unit()}` : "",
    el("span", { className: "how" }, [how, ...more].join("; ")));
  const scale = range ? look.scaleAt(panes[0].bins.zoom) : null;
  ["least", "middle", "most"].forEach((id, i) => { $(id).textContent = number(scale ? scale.at(i / 2) : null); });
  if (scale) document.querySelector(".ramp").style.background = scale.gradient;
  $("ramp").hidden = !range;
  $("quantity").title = range && ofCells() ? `Range of all cells at zoom ${panes[0].bins.zoom}` : "";
}

// Names of places in sight: regions of the level that fits the zoom, those with most data first.
async function showNames() {
  const bins = panes[0].bins;
  if (!shown || !bins) return;
  const levels = levelsThere();
  const zoom = bins.map.getZoom();
  const depth = Math.min(zoom < 5.5 ? 0 : zoom < 7.5 ? 1 : zoom < 9.5 ? 2 : 3, levels.length - 1);
  const read = shown.runs.find(({ has, about }) => has && about.levels.length);
  const level = choice.layer === "regions" || choice.breakdown ? choice.level : levels[depth];
  if (!choice.names || !read || !level) {
    for (const pane of panes) pane.bins?.showNames([]);
    writeAddress();
    return;
  }
  const before = shown;
  const { places } = await api.places(read.run, choice.feature, level);
  if (shown !== before || !choice.names) return;
  const found = Object.entries(places).map(([id, at_]) => ({ text: lastName(id), at: at_ }))
    .filter((one) => bins.map.getBounds().contains(one.at)).slice(0, MOST_NAMES);
  const offset = ofCells() ? 0 : 16;  // Circles stay free.
  panes.forEach((pane, i) => {
    if (mapped()[i]) pane.bins.showNames(found);
    pane.map.classList.toggle("below", offset > 0);
  });
  writeAddress();
}

// --- a rectangle --------------------------------------------------------------------------------------

// By the pointer, or by the keyboard: then the map has the focus, and the button has it back afterwards.
function drawing(on, byKeyboard = false) {
  drawnByKeyboard = on && byKeyboard;
  $("draw").setAttribute("aria-pressed", String(on));
  $("draw").textContent = on ? "Drag on the map ..." : "Draw a rectangle";
  for (const { bins } of panes) if (bins) bins.drawsArea = on;
  if (drawnByKeyboard) {
    news("Move the map with the arrows. Enter sets the first corner where the cross is, Enter again the second; Escape ends it.");
    panes[0].map.focus();
  }
}

function endDrawing() {
  const back = drawnByKeyboard;
  drawing(false);
  news("");
  for (const { bins } of panes) bins?.showArea(choice.area);
  if (back) $("draw").focus();
}

function setArea(bounds) {
  const back = drawnByKeyboard;
  if (back) news("");
  drawing(false);
  step = true;
  choice.area = bounds;
  for (const { bins } of panes) bins?.showArea(bounds);
  takeAway($("undraw"), "hidden", !bounds, $("draw"));
  if (back) $("draw").focus();
  return attempt(showPanel);
}

// --- cells --------------------------------------------------------------------------------------------

// The numbers of a bin for each run: null where it is empty.
async function figuresOf(cell) {
  return Promise.all(shown.runs.map(async (read) => {
    const source = hasTiles(choice.agg) && read.series.timestamps.includes(choice.timestamp) ? sourceOf(read) : null;
    if (!source) return null;
    const tile = await api.tile(source, cell.z, cell.x, cell.y);
    const place = tile.positions.get(cell.bin);
    if (place === undefined) return null;
    const all = Object.fromEntries(["sum", "mean"].flatMap((space) => ["sum", "mean"].map((time) =>
      [`s_${space}_t_${time}`, figure(tile, place, { space, time })])));
    return { ...all, weight: tile.weight[place] };
  }));
}

function hideTooltip() {
  $("tooltip").hidden = true;
}

function hover(cell, x, y) {
  for (const { bins } of panes) bins?.mark(ofCells() ? cell : null, "hovered");
  hovered = cell && ofCells() ? { cell, x, y } : null;
  hideTooltip();
  tellHovered();
}

function hoverCircle(circle, x, y) {
  hovered = circle && { circle, x, y };
  hideTooltip();
  tellHovered();
}

// The number under the pointer, as things are now.
function tellHovered() {
  const mine = turn;
  const now = hovered;
  if (!now) return;
  if (now.circle) {
    const value = circles.flat().find(({ id }) => id === now.circle.id)?.value ?? null;
    placeTooltip(now, [el("div", {}, `${now.circle.text} `, el("b", {}, number(value)), unitAfter())]);
    return;
  }
  figuresOf(now.cell).then((figures) => {
    if (hovered !== now || mine !== turn) return;
    const values = figures.map((one) => one?.[column()] ?? null);
    const lines = values.map((value, i) => el("div", {},
      ...(values.length > 1 ? [el("span", { className: `dot line${i}` }), " "] : []),
      el("b", {}, number(value)), unitAfter()));
    if (isDifference()) lines.push(el("div", {}, "difference ", el("b", {}, number(minus(values))), unitAfter()));
    placeTooltip(now, lines);
  }, complain);
}

const minus = ([one, other]) => (one === null || other === null || one === undefined || other === undefined ? null : other - one);

function placeTooltip({ x, y }, lines) {
  const box = $("tooltip");
  box.replaceChildren(...lines);
  box.hidden = false;
  const frame = box.offsetParent.getBoundingClientRect();
  const left = Math.max(Math.min(x - frame.left + 14, frame.width - box.offsetWidth - 6), 4);
  const top = y - frame.top + 18 + box.offsetHeight > frame.height ? y - frame.top - box.offsetHeight - 10 : y - frame.top + 18;
  box.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
}

function unpick() {
  picked = null;
  for (const { bins } of panes) bins?.mark(null, "picked");
}

function pick(cell) {
  return attempt(async () => {
    step = true;
    picked = cell && { cell, regions: null };
    for (const { bins } of panes) bins?.mark(cell, "picked");
    await showCell(panelTurn);
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

async function showCell(mine) {
  const box = $("cell");
  if (!picked) {
    refill(box, el("p", { className: "hint" }, "Click a cell on the map to read its numbers and to see its region over time. With the keyboard: move the map with the arrows, then press Enter."));
    return;
  }
  const now = picked;
  const { cell, regions } = picked;
  const figures = await figuresOf(cell);
  if (mine !== panelTurn || picked !== now) return;
  const several = shown.runs.length > 1;
  const heads = several
    ? [el("tr", {}, el("td"), ...shown.runs.map(({ run }, i) =>
      el("th", { scope: "col" }, el("span", { className: `dot line${i}` }), ` ${labelOf(run)}`)),
    ...(isDifference() ? [el("th", { scope: "col" }, "difference")] : []))] : [];
  const rows = [...FIGURES, ["weight", "cells counted"]].map(([name, text]) => {
    const values = figures.map((one) => one?.[name] ?? null);
    const row = el("tr", { className: name === column() ? "chosen" : "" },
      el("th", { scope: "row" }, text, el("code", {}, name === "weight" ? "s_count" : name)),
      ...values.map(valueCell), ...(isDifference() ? [valueCell(minus(values))] : []));
    row.dataset.figure = name;
    return row;
  });
  const empty = figures.every((one) => one === null);
  refill(box,
    el("p", { className: "where" }, coordinates(centreOf(cell)),
      el("small", {}, `zoom ${cell.z}, tile ${cell.x}/${cell.y}, bin ${cell.bin}`)),
    empty ? el("p", { className: "hint" }, "No data in this cell at this time.") : el("table", { className: "figures" }, ...heads, ...rows),
    ...(empty || !hasTiles(choice.agg) ? [] : whyLinks({ bin: [cell.z, cell.x, cell.y, cell.bin].join("/") })),
    ...regionsOfCell(regions),
  );
}

// The link to where the figure that is chosen comes from, for each run: of a bin, of a region, or over all places.
function whyLinks(place) {
  const time = new Date(choice.timestamp).toISOString().slice(0, choice.resolution === "year" ? 4 : 7);
  return shown.runs.filter(({ has }) => has).map(({ run }) => {
    const words = { model: run.model_id, run: run.run_id, version: run.number, feature: choice.feature, time, figure: column(), ...place };
    const given = Object.entries(words).filter(([, word]) => word !== null && word !== undefined);
    const text = `Where does this number come from?${shown.runs.length > 1 ? ` (${labelOf(run)})` : ""}`;
    const link = el("a", { href: `explain.html#${new URLSearchParams(given)}` }, text);
    link.dataset.key = text;
    return el("p", { className: "why" }, link);
  });
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
  button.dataset.key = `region ${level} ${id}`;
  button.addEventListener("click", () => attempt(() => chooseRegion(level, id)));
  return button;
}

// --- panel --------------------------------------------------------------------------------------------

async function chooseRegion(level, id) {
  step = true;
  choice.region = id;
  const other = level && level !== choice.level;
  if (level) choice.level = level;
  // Circles are those of the level.
  await (other && !ofCells() ? showTime() : showPanel());
}

async function showPanel() {
  const mine = ++panelTurn;
  $("level").value = choice.level ?? "";
  writeAddress();
  await Promise.all([showCell(mine), showSeries(mine), showRegions(mine)]);
}

// What the lines are about: the region that is chosen (or all places), those that are kept, the rectangle.
function targets() {
  const { region, level, kept, area } = choice;
  const isChosen = (one) => one.level === level && one.region === region;
  return [
    { text: region ? lastName(region) : "all places", level: region && level, region },
    ...kept.filter((one) => !isChosen(one)).map((one) => ({ text: lastName(one.region), ...one })),
    ...(area ? [{ text: "rectangle", area }] : []),
  ];
}

async function lineOf({ run, has, series }, { region, level, area }) {
  const { feature, resolution, breakdown } = choice;
  if (!has) return { timestamps: [], columns: {} };
  if (area) return hasTiles(choice.agg) ? api.area(run, feature, resolution, area) : { timestamps: [], columns: {} };
  return region || breakdown ? api.timeseries(run, feature, resolution, { level, region, breakdown }) : series;
}

let lines = [];  // as they are drawn

async function showSeries(mine) {
  const { region, resolution, timestamp } = choice;
  const wanted = targets();
  const several = wanted.length > 1;
  const read = await Promise.all(wanted.flatMap((target, number_) => shown.runs.map(async (one, i) => {
    const { timestamps, columns } = await lineOf(one, target);
    const name = [several ? target.text : "", shown.runs.length > 1 ? labelOf(one.run) : ""].filter(Boolean).join(", ") || labelOf(one.run);
    return {
      name, timestamps, values: columns[column()] ?? timestamps.map(() => null),
      look: several ? { colour: number_, dash: i > 0 } : { colour: i, dash: false },
    };
  })));
  if (mine !== panelTurn) return;
  lines = read;
  const box = $("series");
  const readout = el("div", { className: "readout" });
  const say = (when) => readout.replaceChildren(el("span", { className: "when" }, moment(when, resolution)),
    ...lines.map((line) => el("span", {}, el("span", { className: `dot line${line.look.colour}` }), " ",
      ...(lines.length > 1 ? [el("span", { className: "name" }, `${line.name} `)] : []),
      el("b", {}, at(line, when)), unitAfter())));
  const parts = [path(), ...keptLines(), readout];
  if (lines.some(({ values }) => values.some((value) => value !== null))) {
    say(timestamp);
    const label = `${featureName()}, ${region ? regionName(region) : "all places"}, ${column()}`;
    const drawn = chart(Math.max(box.clientWidth, 240), {
      lines, now: timestamp, resolution, label, onPick: (when) => { stopPlaying(); goTo(shown.timestamps.indexOf(when)); },
    });
    drawn.addEventListener("near", ({ detail }) => say(detail ?? choice.timestamp));
    const { breakdown, level } = choice;
    const place = { ...(region ? { level, region } : {}), qualifier: breakdown?.qualifier, value: breakdown?.value };
    parts.push(drawn, ...whyLinks(place), tableOf(lines));
  } else if (choice.breakdown) {
    parts.push(el("p", { className: "hint" }, "No line of this value is published here: lines by qualifier end at a level, and at a number of values."));
  } else {
    parts.push(el("p", { className: "hint" }, `No figures ${column()} here: every value is missing.`));
  }
  const open = box.querySelector("details")?.open;
  refill(box, ...parts);
  if (open) box.querySelector("details")?.setAttribute("open", "");
  const isKept = !region || choice.kept.length >= MOST_KEPT || choice.kept.some((one) => one.region === region && one.level === choice.level);
  takeAway($("keep"), "disabled", isKept, $("lines"));
}

// Where the line is about, with the way up: all places › Kenya › Nakuru.
function path() {
  const { region, level } = choice;
  const all = el("button", { type: "button", className: "chip" }, "All places");
  all.setAttribute("aria-pressed", String(!region));
  all.dataset.key = "all places";
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

function keptLines() {
  if (!choice.kept.length && !choice.area) return [];
  const chips = choice.kept.map((one) => {
    const button = el("button", { type: "button", className: "chip", title: regionName(one.region) }, `${lastName(one.region)} ×`);
    button.setAttribute("aria-label", `Do not keep the line of ${regionName(one.region)}`);
    button.addEventListener("click", () => {
      step = true;
      choice.kept = choice.kept.filter((other) => other !== one);
      attempt(showPanel);
    });
    return button;
  });
  if (choice.area) {
    const button = el("button", { type: "button", className: "chip" }, "rectangle ×");
    button.setAttribute("aria-label", "No rectangle");
    button.addEventListener("click", () => setArea(null));
    chips.push(button);
  }
  return [el("p", { className: "chips kept" }, "Also: ", ...chips)];
}

function keepLine() {
  step = true;
  choice.kept = [...choice.kept, { level: choice.level, region: choice.region }];
  attempt(showPanel);
}

const timesOf = (some) => [...new Set(some.flatMap(({ timestamps }) => timestamps))].sort((a, b) => a - b);

function tableOf(some) {
  const { resolution } = choice;
  const head = el("tr", {}, el("th", { scope: "col" }, "Time"), ...some.map(({ name }) => el("th", { scope: "col" }, name)));
  const rows = timesOf(some).map((when) => el("tr", {}, el("th", { scope: "row" }, moment(when, resolution)),
    ...some.map(({ timestamps, values }) => valueCell(values[timestamps.indexOf(when)]))));
  const scroll = el("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Numbers of the lines" },
    el("table", { className: "figures" }, head, ...rows));
  const summary = el("summary", {}, "Numbers");
  summary.dataset.key = "numbers";
  return el("details", {}, summary, scroll);
}

let ranked = [];

async function showRegions(mine) {
  const { level, feature, resolution, timestamp, breakdown } = choice;
  if (!level || timestamp === null) {
    ranked = [];
    $("regions").replaceChildren(el("p", { className: "hint" }, "The rows name no regions."));
    return;
  }
  const answers = await Promise.all(shown.runs.map(({ run, has }) =>
    (has ? api.regionalMap(run, feature, resolution, level, timestamp, breakdown) : { ids: [], columns: {} })));
  if (mine !== panelTurn) return;
  const byRun = answers.map(({ ids, columns }) => new Map(ids.map((id, i) => [id, columns[column()]?.[i] ?? null])));
  const ids = [...new Set(shown.runs.flatMap(({ lists }) => lists[level] ?? []))];
  ranked = ids.map((id) => ({ id, values: byRun.map((values) => values.get(id) ?? null) }));
  // What changed most comes first where a difference is shown.
  const rank = ({ values }) => (isDifference() ? Math.abs(minus(values) ?? NaN) || -Infinity : values[0] ?? -Infinity);
  ranked.sort((one, other) => (rank(other) === rank(one) ? 0 : rank(other) - rank(one)) || (one.id < other.id ? -1 : 1));
  showFound();
}

function foundRegions() {
  const wanted = plain($("find").value.trim());
  const isFiltered = choice.low !== null || choice.high !== null;
  return ranked.filter(({ id, values }) => plain(regionName(id)).includes(wanted) && (!isFiltered || isDifference() || values.some(keeps)));
}

function showFound() {
  const found = foundRegions();
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
    button.dataset.key = id;
    button.addEventListener("click", () => attempt(() => chooseRegion(choice.level, id)));
    return el("li", {}, button);
  });
  const rest = found.length - items.length;
  const none = $("find").value ? "No region is called so." : "No region has a value in this range.";
  refill($("regions"),
    items.length ? el("ul", { className: "ranking" }, ...items) : el("p", { className: "hint" }, none),
    ...(rest > 0 ? [el("p", { className: "hint" }, `and ${rest} more: type a part of the name`)] : []));
}

// --- files --------------------------------------------------------------------------------------------

const isoOf = (when) => new Date(when).toISOString();
const fileName = (what) => [...chosenRuns().map(nameOf), choice.feature, what].join(" ");
const withUnit = (name) => (unit() ? `${name} (${unit()})` : name);

function saveLines() {
  save.csv(fileName(`${column()} lines`), ["timestamp", ...lines.map(({ name }) => withUnit(name))],
    timesOf(lines).map((when) => [isoOf(when), ...lines.map(({ timestamps, values }) => values[timestamps.indexOf(when)])]));
}

function saveRegions() {
  save.csv(fileName(`${column()} ${choice.level} ${isoOf(choice.timestamp).slice(0, 7)}`),
    ["region_id", ...shown.runs.map(({ run }) => withUnit(labelOf(run)))], foundRegions().map(({ id, values }) => [id, ...values]));
}

// The cells of the tiles that are drawn, or the circles.
async function saveValues() {
  const name = fileName(`${column()} map ${isoOf(choice.timestamp).slice(0, 7)}`);
  const maps = mapped().map((reads) => reads.map(({ run }) => labelOf(run)).reverse().join(" minus "));
  if (!ofCells()) {
    save.csv(name, ["map", "region_id", "lat", "lng", withUnit(column())],
      circles.flatMap((some, i) => some.filter(({ value }) => keeps(value)).map(({ id, at: at_, value }) => [maps[i], id, ...(at_ ?? ["", ""]), value])));
    return;
  }
  const found = await Promise.all(maps.map((_, i) => panes[i].bins.values(panes[i].bins.sources, choice.agg)));
  save.csv(name, ["map", "zoom", "west", "south", "east", "north", withUnit(column())],
    found.flatMap((some, i) => some.filter(({ value }) => keeps(value)).map((cell) => {
      const [[south, west], [north, east]] = cornersOf(cell);
      return [maps[i], cell.z, west, south, east, north, cell.value];
    })));
}

async function savePicture() {
  const scale = ranges?.[panes[0].bins.zoom] ? look.scaleAt(panes[0].bins.zoom) : null;
  await save.png(fileName(`map ${isoOf(choice.timestamp).slice(0, 7)}`), panes.filter(({ figure: box }) => !box.hidden).map(({ map }) => map), {
    title: `${featureName()}${unit() ? ` in ${unit()}` : ""}, ${moment(choice.timestamp, choice.resolution)}`,
    subtitle: `${mapped().map((reads) => reads.map(({ run }) => nameOf(run)).reverse().join(" minus ")).join(" | ")} - ${column()}`,
    scale, ends: scale ? [0, 0.5, 1].map((share) => number(scale.at(share))) : [],
  });
}

listen();
attempt(start);
