// What the page asks the server for. Nothing else in the page makes requests.

export class Refusal extends Error {}

async function get(path, parameters = {}) {
  const url = new URL(`api/${path}`, document.baseURI);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null) url.searchParams.set(name, value);
  }
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Refusal("The server does not answer. Start it again with: datacube view");
  }
  if (response.ok) return response.json();
  const { detail } = await response.json().catch(() => ({}));
  throw new Refusal(detail || `The server answered ${response.status}.`);
}

const of = (run, more = {}) => ({ model_id: run.model_id, run_id: run.run_id, ...more });

export const listRuns = () => get("runs");
export const describe = (run) => get("run", of(run));
export const timeseries = (run, feature, resolution, level, region) =>
  get("timeseries", of(run, { feature, resolution, level, region }));
export const regionLists = (run, feature) => get("regions", of(run, { feature }));
export const regionalMap = (run, feature, resolution, level, timestamp) =>
  get("regional", of(run, { feature, resolution, level, timestamp }));
export const ranges = (run, feature, resolution, timestamp) =>
  get("ranges", of(run, { feature, resolution, timestamp }));
export const place = (run, feature, cell) => get("place", of(run, { feature, ...cell }));

// Tiles are kept: going back to a month, or hovering, asks for nothing.
const MOST_TILES = 1500;
const tiles = new Map();

const tileKey = (source, z, x, y) =>
  JSON.stringify([source.run.model_id, source.run.run_id, source.feature, source.resolution,
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
