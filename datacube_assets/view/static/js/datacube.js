// The page about one datacube: what it holds, in words and numbers, and its tables page by page. Like the map, it
// shows one version at a time.

import * as api from "./api.js";
import { NOTHING, el, moment, number, takeAway } from "./format.js";

const ROWS = 50;
const LOOK = 5000;  // milliseconds between looks whether what is shown still stands
const TABLES = {
  timeseries: "figures over time, over all places",
  regions: "figures of the regions of a level",
  extrema: "regions and times of the smallest and largest figures",
  bins: "cells of the map",
  rows: "the rows as they were delivered",
  summary: "figures of the whole period",
};

const $ = (id) => document.getElementById(id);
let run = null;  // with the version that is shown
let about = null;
let offset = 0;
let turn = 0;

function tell(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

async function attempt(work) {
  $("shown").setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (problem) {
    if (problem.reason === "changed") await start();
    else tell(problem.message);
    if (!(problem instanceof api.Refusal)) console.error(problem);
  } finally {
    $("shown").setAttribute("aria-busy", "false");
  }
}

async function start() {
  const mine = ++turn;
  tell("");
  const words = new URLSearchParams(location.hash.slice(1));
  const { runs } = await api.listRuns();
  if (mine !== turn) return;
  const newest = runs.toSorted((one, other) => (other.published ?? 0) - (one.published ?? 0));
  const wanted = words.get("model") ? { model_id: words.get("model"), run_id: words.get("run") ?? "" } : newest[0];
  $("choice").hidden = !runs.length;
  const isWanted = (one) => wanted && one.model_id === wanted.model_id && one.run_id === wanted.run_id;
  $("which").replaceChildren(...runs.map((one, i) => el("option", { value: String(i), textContent: `${one.model_id} ${one.run_id}`, selected: isWanted(one) })));
  $("which").onchange = () => {
    const one = runs[Number($("which").value)];
    location.hash = new URLSearchParams({ model: one.model_id, run: one.run_id });
  };
  if (!wanted) {
    tell("Nothing is published yet: `make demo` makes a small sample.");
    return;
  }
  if (!runs.some(isWanted)) {
    $("shown").hidden = true;
    $("which").selectedIndex = -1;
    tell(`${wanted.model_id} ${wanted.run_id} is not among the complete datacubes: it does not exist, was withdrawn, or is being published right now. This page looks again every few seconds.`);
    return;
  }
  const found = await api.about(wanted);
  if (mine !== turn) return;
  about = found;
  run = { ...runs.find(isWanted), version: about.version };
  offset = 0;
  $("shown").hidden = false;
  show();
  fillTables();
  await showTable();
}

async function lookAgain() {
  if (document.hidden || $("shown").getAttribute("aria-busy") === "true") return;
  if ($("shown").hidden) {
    await attempt(start);
    return;
  }
  const before = run;
  const version = await api.version(run).catch((problem) => (problem.reason ? null : before.version));
  if (run !== before || version === before.version) return;
  if (version === null) {
    $("news").textContent = "It is being published anew, or was withdrawn. What stands here is what it was before.";
  } else {
    await attempt(start);
    $("news").textContent = "It was published anew. Everything shown is of the new version.";
  }
  $("news").hidden = false;
}

// --- what it holds ------------------------------------------------------------------------------------

const count = (value) => number(value, new Intl.NumberFormat("en"));
const fact = (name, ...what) => [el("dt", {}, name), el("dd", {}, ...what)];
const megabytes = (bytes) => `${number(bytes / 1e6, new Intl.NumberFormat("en", { maximumFractionDigits: 1 }))} MB`;

function table(head, rows, caption) {
  const isNumber = (value) => typeof value === "number";
  return el("div", { className: "scroll wide", tabIndex: 0, role: "region", "aria-label": caption },
    el("table", { className: "figures plain" },
      el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text))),
      ...rows.map((row) => el("tr", {}, ...row.map((value) =>
        el("td", { className: isNumber(value) ? "number" : "" }, isNumber(value) ? count(value) : value ?? NOTHING))))));
}

function show() {
  document.title = `${run.model_id} ${run.run_id}: about the datacube`;
  $("name").textContent = `${run.model_id} ${run.run_id}`;
  $("map").href = `./#${new URLSearchParams({ model: run.model_id, run: run.run_id })}`;
  const objects = Object.values(about.objects);
  const sum = (kind) => objects.reduce((total, one) => total + one[kind], 0);
  const standing = about.versions.find(({ state }) => state === "published");
  $("facts").replaceChildren(
    ...fact("Partition", el("code", {}, about.key)),
    ...fact("Kind", run.is_dataset ? "dataset" : "model run"),
    ...fact("Published", run.published ? `${new Date(run.published * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC` : NOTHING),
    ...fact("Version", standing ? `${standing.number}, ` : "", el("code", {}, about.version), about.input_version ? " made from input " : "", about.input_version ? el("code", {}, about.input_version) : ""),
    ...fact("Rows of input", count(about.rows)),
    ...fact("Region levels", about.levels.join(", ") || "none"),
    ...fact("Map", about.has_tiles ? "yes" : "no: the rows have no coordinates"),
    ...fact("Weighted figures", about.has_weights ? `yes, by ${about.request.weight_column ?? "a weight column"}` : "no"),
    ...(objects.length ? fact("Objects", `${count(sum("objects"))}, ${megabytes(sum("bytes"))}`) : []),
    ...fact("Address", el("code", {}, about.address)),
    ...(Object.keys(about.request).length ? fact("Asked for with", el("code", {}, JSON.stringify(about.request))) : []),
  );
  const times = ({ all, number: many }, resolution) => (many
    ? `${many}: ${moment(all[0], resolution)} to ${moment(all.at(-1), resolution)}` : "none");
  $("features").replaceChildren(table(
    ["Feature", "Name in Dojo", "Unit", "Rows", "Months", "Years", "Regions", "Qualifiers (values)", "Description"],
    about.features.map((one) => [one.name, one.display_name, one.unit, one.rows, times(one.times.month, "month"), times(one.times.year, "year"),
      Object.entries(one.regions).map(([level, many]) => `${level} ${many}`).join(", ") || "none",
      Object.entries(one.qualifiers).map(([name, many]) => `${name} (${many})`).join(", ") || "none", one.description]),
    "Features",
  ));
  $("objects").replaceChildren(objects.length
    ? table(["Asset", "Objects", "Bytes", "Left out"], Object.entries(about.objects).map(([name, one]) => [name, one.objects, one.bytes, one.left_out]), "Objects by asset")
    : el("p", { className: "hint" }, "Only the lake tells them, and it cannot be read from here."));
  showVersions();
  showChecks();
  showGis();
  $("next").replaceChildren(el("p", { className: "hint" }, "This page changes nothing. On the command line:"),
    el("pre", { tabIndex: 0 }, [
      `datacube inspect ${quoted(about.key)}     is it complete and of one piece?`,
      `datacube verify ${quoted(about.key)}      every object, compared with what it is made from`,
      `datacube reprocess ${quoted(about.key)}   publish it again`,
      `datacube history ${quoted(about.key)}     its versions`,
      `datacube rollback ${quoted(about.key)}    publish the version before again`,
      `datacube withdraw ${quoted(about.key)}    take it back`,
    ].join("\n")));
}

const quoted = (key) => (/^[A-Za-z0-9._:%-]+$/.test(key) ? key : `'${key}'`);

function showVersions() {
  const row = ({ number: which, state, published, kept, rows, executed_at, back_to, changed }) => [
    String(which), back_to ? `${state}, back to version ${back_to}` : state,
    new Date(published * 1000).toISOString().slice(0, 16).replace("T", " "), executed_at || NOTHING, rows, kept ? "kept" : "gone",
    changed ? `${count(changed.changed)} of ${count(changed.compared)} figures changed, ${count(changed.came)} came, ${count(changed.went)} went` : NOTHING];
  $("versions").replaceChildren(about.versions.length
    ? table(["Version", "State", "Published (UTC)", "Executed, as Dojo says", "Rows", "Tables", "Against the version before", "On the map"],
      about.versions.map((one) => [...row(one), onTheMap(one)]), "Versions")
    : el("p", { className: "hint" }, "Only the lake tells them, and it has none or cannot be read from here."));
}

// Links to a version on the map, and to what it changed, where that changed most.
function onTheMap({ number: which, kept, before, most }) {
  if (!kept) return NOTHING;
  const [model, id] = [run.model_id, run.run_id];
  const link = (text, label, words) => el("a", { href: `./#${new URLSearchParams(words)}`, "aria-label": label }, text);
  const links = [link("show", `show version ${which}`, { model, run: id, version: which })];
  if (before !== null) {
    const where = most ? { feature: most.feature, time: Date.parse(`${most.month}-01T00:00:00Z`) } : {};
    const words = { model, run: id, version: before, with_model: model, with_run: id, with_version: which, compared: "difference", ...where };
    links.push(" ", link("show what changed", `show what changed in version ${which}`, words));
  }
  return el("span", {}, ...links);
}

function showChecks() {
  if (about.checks === null) {
    $("checks").replaceChildren(el("p", { className: "hint" }, "Dagster's storage, which keeps what checks say, is not here."));
    return;
  }
  const failed = about.checks.filter(({ passed }) => !passed);
  const said = about.checks.length ? `${about.checks.length - failed.length} of ${about.checks.length} passed, when they ran last.` : "No check has run yet.";
  const row = ({ check, asset, passed, severity, says, at }) =>
    [passed ? "passed" : severity === "WARN" ? "look at it" : "failed", check, asset, says, new Date(at * 1000).toISOString().slice(0, 16).replace("T", " ")];
  const parts = [el("p", {}, said)];
  if (failed.length) parts.push(table(["", "Check", "Asset", "It says", "When"], failed.map(row), "Checks that failed"));
  if (about.checks.length) {
    parts.push(el("details", {}, el("summary", {}, "All checks"), table(["", "Check", "Asset", "It says", "When"], about.checks.map(row), "All checks")));
  }
  $("checks").replaceChildren(...parts);
}

// Addresses for other programs, of the feature and time that are chosen.
function showGis() {
  const feature = about.features[0];
  const [when] = feature?.times.month.all.slice(-1) ?? [];
  if (when === undefined) {
    $("gis").replaceChildren(el("p", { className: "hint" }, "There is no time to show."));
    return;
  }
  const time = new Date(when).toISOString().slice(0, 7);
  const path = [about.key, feature.name, time].map(encodeURIComponent).join("/");
  const base = new URL("./", document.baseURI).href;
  const line = (text, code) => [el("p", { className: "hint" }, text), el("pre", { tabIndex: 0 }, code)];
  $("gis").replaceChildren(
    ...(about.has_tiles ? [
      ...line("Tiles: in QGIS, Layer, Add Layer, Add XYZ Layer, with this address and a largest zoom of 8:", `${base}tiles/${path}/{z}/{x}/{y}.png?figure=s_mean_t_mean&palette=viridis`),
      ...line("The same as TileJSON:", `${base}tiles/${path}.json`)] : []),
    ...(about.levels.length ? line("Regions as points with their figures: in QGIS, Add Vector Layer, protocol HTTP, with:",
      api.address("download/regions.geojson", { key: about.key, feature: feature.name, level: about.levels[0], time }).href) : []),
    el("p", {}, el("a", { href: "docs/gis.md" }, "How-to: QGIS, notebooks, styles")),
  );
}

// --- tables -------------------------------------------------------------------------------------------

const chosenFeature = () => about.features.find(({ name }) => name === $("feature").value) ?? about.features[0];
const options = (id, pairs) => {
  const before = $(id).value;
  $(id).replaceChildren(...pairs.map(([value, text]) => el("option", { value, textContent: text })));
  if (pairs.some(([value]) => value === before)) $(id).value = before;
};

function fillTables() {
  const there = Object.keys(TABLES).filter((name) => (name !== "summary" || about.has_summary) && (name !== "bins" || about.has_tiles)
    && (!["regions", "extrema"].includes(name) || about.levels.length) && (name !== "rows" || about.features.some(({ has_rows }) => has_rows)));
  options("kind", there.map((name) => [name, `${name}: ${TABLES[name]}`]));
  options("feature", about.features.map(({ name }) => [name, name]));
  options("level", about.levels.map((level) => [level, level]));
  fillTimes();
}

function fillTimes() {
  const kind = $("kind").value;
  const feature = chosenFeature();
  const iso = (when, resolution) => new Date(when).toISOString().slice(0, resolution === "year" ? 4 : 7);
  const resolution = kind === "bins" ? "month" : $("resolution").value;
  const times = (feature?.times[resolution].all ?? []).map((when) => [iso(when, resolution), moment(when, resolution)]);
  options("time", kind === "regions" ? [["", "all"], ...times] : kind === "bins" ? times : []);
  options("qualifier", [["", "nothing"], ...Object.keys(feature?.qualifiers ?? {}).map((name) => [name, name])]);
  for (const label of $("table").querySelectorAll("[data-of]")) label.hidden = !label.dataset.of.split(" ").includes(kind);
  $("by").hidden ||= !Object.keys(feature?.qualifiers ?? {}).length;
}

function parameters() {
  const asked = { table: $("kind").value };
  for (const label of $("table").querySelectorAll("[data-of]:not([hidden])")) {
    const select = label.querySelector("select");
    asked[select.id] = select.value;
  }
  return asked;
}

async function showTable() {
  const mine = ++turn;
  const asked = parameters();
  const { table: kind, ...more } = asked;
  for (const format of ["csv", "parquet", "geojson"]) {
    $(format).href = api.address(`download/${kind}.${format}`, { key: about.key, ...more }).href;
    $(format).hidden = format === "geojson" && kind !== "regions";
  }
  let found;
  try {
    found = await api.table(run, { ...asked, offset, limit: ROWS });
  } catch (problem) {
    if (problem.reason) throw problem;
    if (mine !== turn) return;
    $("about").textContent = problem.message;
    $("rows").replaceChildren();
    $("pages").hidden = true;
    return;
  }
  if (mine !== turn) return;
  $("about").textContent = `${count(found.total)} rows. ${found.columns.filter(({ holds }) => holds).map(({ name, holds }) => `${name}: ${holds}`).join("; ")}.`;
  $("rows").replaceChildren(el("table", { className: "figures plain" },
    el("tr", {}, ...found.columns.map(({ name, holds }) => el("th", { scope: "col", title: holds }, name))),
    ...found.rows.map((row) => el("tr", {}, ...row.map((value, i) =>
      el("td", { className: found.columns[i].is_number ? "number" : "", title: String(value ?? "") },
        value === null ? NOTHING : found.columns[i].is_number ? number(value) : value))))));
  const last = Math.max(Math.ceil(found.total / ROWS) - 1, 0) * ROWS;
  $("pages").hidden = found.total <= ROWS;
  $("where").textContent = `${count(offset + 1)} to ${count(offset + found.rows.length)} of ${count(found.total)}`;
  for (const [id, to] of [["first", 0], ["back", offset - ROWS], ["on", offset + ROWS], ["last", last]]) {
    takeAway($(id), "disabled", id === "first" || id === "back" ? offset <= 0 : offset >= last, $("rows"));
    $(id).onclick = () => attempt(async () => { offset = Math.max(Math.min(to, last), 0); await showTable(); });
  }
}

$("table").addEventListener("change", () => attempt(async () => {
  offset = 0;
  fillTimes();
  await showTable();
}));
$("table").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => { $("news").hidden = true; attempt(start); });
setInterval(lookAgain, LOOK);
attempt(start);
