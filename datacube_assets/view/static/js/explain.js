// The page about one number: formula, temporal cells, and rows page by page. What is asked for is in the address, so
// that it can be sent to somebody.

import * as api from "./api.js";
import { NOTHING, el, regionName, takeAway } from "./format.js";

const ROWS = 50;
const $ = (id) => document.getElementById(id);
let turn = 0;

function tell(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

const words = () => new URLSearchParams(location.hash.slice(1));

// What the server is asked, of the words of the address.
function asked(given) {
  const parameters = { feature: given.get("feature"), time: given.get("time"), figure: given.get("figure") ?? "s_sum_t_sum" };
  for (const name of ["region", "level", "qualifier", "value"]) parameters[name] = given.get(name);
  if (given.has("bin")) [parameters.z, parameters.x, parameters.y, parameters.bin] = given.get("bin").split("/");
  return { ...parameters, offset: Number(given.get("from") ?? 0), limit: ROWS };
}

async function show() {
  const mine = ++turn;
  $("shown").setAttribute("aria-busy", "true");
  tell("");
  const given = words();
  const run = { model_id: given.get("model"), run_id: given.get("run"), number: given.get("version") };
  try {
    const found = await api.explain(run, asked(given));
    if (mine !== turn) return;
    fill(given, found);
    $("shown").hidden = $("choice").hidden = false;
  } catch (problem) {
    if (mine !== turn) return;
    $("shown").hidden = $("choice").hidden = true;
    tell(problem.message);
    if (!(problem instanceof api.Refusal)) console.error(problem);
  } finally {
    if (mine === turn) $("shown").setAttribute("aria-busy", "false");
  }
}

function fill(given, found) {
  const count = (value) => value.toLocaleString("en");
  const { name, value, formula } = found.figure;
  const place = given.has("bin") ? `bin ${given.get("bin")} of the map` : given.has("region") ? regionName(given.get("region")) : "all places";
  const only = given.has("qualifier") ? `, only rows whose ${given.get("qualifier")} is ${given.get("value")}` : "";
  $("what").textContent = `${given.get("feature")} of ${given.get("model")} ${given.get("run")}${given.has("version") ? ` version ${given.get("version")}` : ""}, ${given.get("time") === "all" ? "the whole period" : given.get("time")}, ${place}${only}`;
  $("number").replaceChildren(el("code", {}, name), " = ", el("b", {}, value === null ? "no value" : String(value)));
  $("formula").textContent = `${name} = ${formula}`;
  $("figure").replaceChildren(...Object.keys(found.figures).map((one) => el("option", { value: one, textContent: one, selected: one === name })));
  const columns = found.cells.length ? Object.keys(found.cells[0]).filter((one) => one !== "feature" && one !== "timestamp") : [];
  $("cells-told").textContent = found.cells_total > found.cells.length ? `The first ${count(found.cells.length)} of ${count(found.cells_total)}.` : `${count(found.cells_total)}, each the rows of a place, and of a combination of qualifiers, in this time.`;
  $("cells").replaceChildren(table(columns, found.cells.map((cell) => columns.map((one) => cell[one]))));
  const reasons = Object.entries(found.not_counted).map(([reason, number]) => `${count(number)}: ${reason}`);
  $("rows-told").textContent = `${count(found.counted)} count, ${count(found.total - found.counted)} do not${reasons.length ? ` (${reasons.join("; ")})` : ""}. The number of a row is that in its file, from 0.`;
  $("rows").replaceChildren(table(["file", "row", "timestamp", "value", "counts", "remark"],
    found.rows.map((row) => [row.part, row.row, row.timestamp, row.value, row.counted ? "yes" : "no", [row.reason, row.cleaning].filter(Boolean).join("; ")])));
  pages(Number(given.get("from") ?? 0), found);
  const map = ["model", "run", "version", "feature"].filter((word) => given.has(word)).map((word) => [word, given.get(word)]);
  $("map").href = `./#${new URLSearchParams(map)}`;
  $("command").textContent = command(given, name);
}

function pages(offset, found) {
  const last = Math.max(Math.ceil(found.total / ROWS) - 1, 0) * ROWS;
  $("where").textContent = found.rows.length ? `${(offset + 1).toLocaleString("en")} to ${(offset + found.rows.length).toLocaleString("en")} of ${found.total.toLocaleString("en")}` : "none";
  for (const [id, to] of [["first", 0], ["back", offset - ROWS], ["on", offset + ROWS], ["last", last]]) {
    takeAway($(id), "disabled", id === "first" || id === "back" ? offset <= 0 : offset >= last, $("rows"));
    $(id).onclick = () => go({ from: Math.max(Math.min(to, last), 0) || null });
  }
}

// Another page or figure is another address.
function go(changes) {
  const given = words();
  for (const [name, word] of Object.entries(changes)) {
    if (word === null) given.delete(name);
    else given.set(name, word);
  }
  location.hash = given;
}

function table(names, rows) {
  const cell = (value) => el("td", {}, value === null || value === undefined ? NOTHING : String(value));
  return el("table", { className: "figures plain" },
    el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell)))));
}

const quoted = (text) => (/^[A-Za-z0-9._:@%/=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
// As `quote` of Python encodes a part of a partition's key.
const encoded = (name) => encodeURIComponent(name).replace(/[!'()*~]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`);

function command(given, figure) {
  const options = [["feature", given.get("feature")], ["time", given.get("time")], ["region", given.get("region")],
    ["level", given.get("level")], ["bin", given.get("bin")],
    ["qualifier", given.has("qualifier") ? `${given.get("qualifier")}=${given.get("value")}` : null], ["figure", figure]];
  return ["datacube explain", quoted(`${encoded(given.get("model"))}:${encoded(given.get("run"))}${given.has("version") ? `@${given.get("version")}` : ""}`),
    ...options.filter(([, word]) => word).map(([name, word]) => `--${name} ${quoted(word)}`), "--csv rows.csv"].join(" ");
}

$("figure").addEventListener("change", () => go({ figure: $("figure").value }));
window.addEventListener("hashchange", show);
show();
