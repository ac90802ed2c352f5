// What the page asks the server for. Nothing else in the page makes requests.

// `reason` is `changed`, `absent` or `gone` where the version that was asked for does not stand any more.
export class Refusal extends Error {
  constructor(message, reason = null) {
    super(message);
    this.reason = reason;
  }
}

async function get(path, parameters = {}) {
  const url = address(`api/${path}`, parameters);
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Refusal("The server does not answer. Start it again with: datacube view");
  }
  if (response.ok) return response.json();
  const { detail, reason } = await response.json().catch(() => ({}));
  throw new Refusal(detail || `The server answered ${response.status}.`, reason ?? null);
}

export function address(path, parameters = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

// A run that was described has a version: whatever is asked of it afterwards is of that version, or refused. With a
// `number` it is that earlier one of its history, which its tables answer for.
const of = (run, more = {}) => ({ model_id: run.model_id, run_id: run.run_id, number: run.number, version: run.version, ...more });

export const listRuns = () => get("runs");
export const palettes = () => get("palettes");
export const describe = ({ model_id, run_id, number }) => get("run", { model_id, run_id, number });
export const version = async ({ model_id, run_id, number }) => (await get("version", { model_id, run_id, number })).version;
export const versions = async ({ model_id, run_id }) => (await get("versions", { model_id, run_id })).versions;
export const about = (run) => get("about", of(run));
export const explain = (run, parameters) => get("explain", of(run, parameters));
export const table = (run, parameters) => get("table", of(run, parameters));
export const timeseries = (run, feature, resolution, { level, region, breakdown } = {}) =>
  get("timeseries", of(run, { feature, resolution, level, region, ...breakdown }));
export const regionLists = async (run, feature) => (await get("regions", of(run, { feature }))).lists;
export const regionalMap = (run, feature, resolution, level, timestamp, breakdown) =>
  get("regional", of(run, { feature, resolution, level, timestamp, ...breakdown }));
export const ranges = (run, feature, resolution, timestamp) =>
  get("ranges", of(run, { feature, resolution, timestamp }));
export const place = (run, feature, cell) => get("place", of(run, { feature, ...cell }));
export const qualifiers = async (run, feature) => (await get("qualifiers", of(run, { feature }))).qualifiers;
export const area = (run, feature, resolution, [west, south, east, north]) =>
  get("area", of(run, { feature, resolution, west, south, east, north }));

// The middle of each region of a level, as {known, places: {id: [lat, lng]}}; kept, as labels ask often.
const middles = new Map();
export function places(run, feature, level) {
  const key = JSON.stringify([run.model_id, run.run_id, run.number, run.version, feature, level]);
  if (!middles.has(key)) {
    const asked = get("places", of(run, { feature, level }));
    middles.set(key, asked);
    asked.catch(() => middles.delete(key));
  }
  return middles.get(key);
}

// Tiles are kept: going back to a month, or hovering, asks for nothing.
const MOST_TILES = 1500;
const tiles = new Map();

const tileKey = (source, z, x, y) =>
  JSON.stringify([source.run.model_id, source.run.run_id, source.run.number, source.run.version, source.feature, source.resolution,
    source.timestamp, z, x, y]);

// A tile, as {positions: bin -> position, s_sum_t_sum, s_sum_t_mean, weight}; a missing one is empty.
export function tile(source, z, x, y) {
  const key = tileKey(source, z, x, y);
  let kept = tiles.get(key);
  if (!kept) {
    const { run, feature, resolution, timestamp } = source;
    const asked = get(`tiles/${z}/${x}/${y}`, of(run, { feature, resolution, timestamp }));
    kept = { tile: null };
    kept.promise = asked.then((columns) => {
      kept.tile = { ...columns, positions: new Map(columns.bin.map((bin, position) => [bin, position])) };
      return kept.tile;
    });
    kept.promise.catch(() => tiles.delete(key));
  }
  // The one used last is dropped last.
  tiles.delete(key);
  tiles.set(key, kept);
  if (tiles.size > MOST_TILES) tiles.delete(tiles.keys().next().value);
  return kept.promise;
}

// The same if it is here already, else null.
export const tileAtHand = (source, z, x, y) => tiles.get(tileKey(source, z, x, y))?.tile ?? null;
