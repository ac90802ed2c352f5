// The choice, as the address keeps it behind `#`: so a view can be a bookmark, be sent, and be gone back to.

import { SCALES, isPalette } from "./colours.js";

export const LEVELS = ["country", "admin1", "admin2", "admin3"];
export const WORDS = { sum: "sum", mean: "mean", wavg: "weighted mean" };
const CELLS = ["4", "8", "16", "32"];

const oneOf = (word, allowed, otherwise) => (allowed.includes(word) ? word : otherwise);
const numberOf = (word) => (word !== null && word !== "" && Number.isFinite(Number(word)) ? Number(word) : null);

// Where the middle of the map is, if the address says so of a place that there is.
function placeOf(words) {
  const [lat, lng, zoom] = ["lat", "lng", "zoom"].map((name) => numberOf(words.get(name)));
  return [lat, lng, zoom].includes(null) || Math.abs(lat) > 90 || Math.abs(lng) > 540 ? null : { lat, lng, zoom };
}

// What the address says; `runs` are those that there are, the newest first in `newest`. A run that it names and
// that is not there is `missing`. Whether a version is there that it names by its number, only the server knows.
export function read(runs, newest) {
  const words = new URLSearchParams(location.hash.slice(1));
  const wanted = (model, run, number) => (words.get(model) && words.get(run)
    ? { model_id: words.get(model), run_id: words.get(run), number: words.get(number) || null } : null);
  const named = (one) => {
    const listed = runs.find(({ model_id, run_id }) => model_id === one.model_id && run_id === one.run_id);
    return listed || one.number ? { ...listed, ...one } : null;
  };
  const [mine, other] = [wanted("model", "run", "version"), wanted("with_model", "with_run", "with_version")];
  const ofModel = newest.find((one) => one.model_id === words.get("model"));
  const run = mine ? named(mine) : words.get("model") ? ofModel ?? null : newest[0];
  const second = other && named(other);
  const absent = mine ?? { model_id: words.get("model"), run_id: words.get("run") ?? "" };
  const [by, value] = [words.get("split"), words.get("value")];
  const area = (words.get("area") ?? "").split(",").map(Number);
  return {
    run,
    missing: !run ? absent : other && !second ? other : null,
    other: second,
    compared: words.get("compared") === "difference" ? "difference" : "beside",
    feature: words.get("feature"),
    resolution: words.get("by") === "year" ? "year" : "month",
    timestamp: numberOf(words.get("time")),
    agg: {
      time: oneOf(words.get("t"), Object.keys(WORDS), "mean"),
      space: oneOf(words.get("s"), Object.keys(WORDS), "mean"),
    },
    level: oneOf(words.get("level"), LEVELS, null),
    region: words.get("region"),
    span: words.get("span") === "all" ? "all" : "now",
    scale: oneOf(words.get("scale"), Object.keys(SCALES), "linear"),
    palette: isPalette(words.get("palette")) ? words.get("palette") : "viridis",
    cells: Number(oneOf(words.get("cells"), CELLS, "8")),
    layer: words.get("layer") === "regions" ? "regions" : "cells",
    breakdown: by !== null && value !== null ? { qualifier: by, value } : null,
    low: numberOf(words.get("low")),
    high: numberOf(words.get("high")),
    names: words.get("names") !== "no",
    area: area.length === 4 && area.every(Number.isFinite) && area[0] < area[2] && area[1] < area[3] ? area : null,
    kept: words.getAll("keep").map((one) => {
      const [level, ...rest] = one.split("|");
      return { level, region: rest.join("|") };
    }).filter(({ level, region }) => LEVELS.includes(level) && region),
    place: placeOf(words),
  };
}

// Write a choice into the address. A step that one wants to go back over is a new entry of the history.
export function write(choice, map, isStep) {
  const { run, other, agg, region, level } = choice;
  const centre = map?.getCenter();
  const words = {
    model: run.model_id, run: run.run_id, version: run.number,
    with_model: other?.model_id, with_run: other?.run_id, with_version: other?.number,
    compared: other && choice.compared === "difference" ? "difference" : null,
    feature: choice.feature, by: choice.resolution, time: choice.timestamp, t: agg.time, s: agg.space,
    level: region && level, region,
    span: choice.span === "all" ? "all" : null,
    scale: choice.scale === "linear" ? null : choice.scale,
    palette: choice.palette === "viridis" ? null : choice.palette,
    cells: choice.cells === 8 ? null : choice.cells,
    layer: choice.layer === "regions" ? "regions" : null,
    split: choice.breakdown?.qualifier, value: choice.breakdown?.value,
    low: choice.low, high: choice.high, names: choice.names ? null : "no", area: choice.area?.join(","),
    lat: centre?.lat.toFixed(4), lng: centre?.lng.toFixed(4), zoom: map?.getZoom(),
  };
  const given = Object.entries(words).filter(([, word]) => word !== null && word !== undefined);
  given.push(...choice.kept.map((one) => ["keep", `${one.level}|${one.region}`]));
  const hash = `#${new URLSearchParams(given)}`;
  if (hash === location.hash) return;
  history[isStep ? "pushState" : "replaceState"](null, "", hash);
}
