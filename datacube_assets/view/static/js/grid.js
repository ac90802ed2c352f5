// The geometry of tiles and bins (docs/objects.md, 13): which bin a place is in, and where a bin lies.

export const BINS = 64;
export const FINEST_ZOOM = 8;

const row = (lat) => (1 - Math.asinh(Math.tan((lat * Math.PI) / 180)) / Math.PI) / 2;
const latitude = (share) => (Math.atan(Math.sinh(Math.PI * (1 - 2 * share))) * 180) / Math.PI;

// The bin of a place at a zoom, as {z, x, y, bin}; null beyond the edge of the map.
export function cellAt({ lat, lng }, z) {
  const across = 2 ** z * BINS;
  const column = Math.floor(((lng + 180) / 360) * across);
  const line = Math.floor(row(lat) * across);
  if (column < 0 || line < 0 || column >= across || line >= across) return null;
  return {
    z,
    x: Math.floor(column / BINS),
    y: Math.floor(line / BINS),
    bin: (column % BINS) + (line % BINS) * BINS,
  };
}

// South-west and north-east corner of a bin.
export function cornersOf({ z, x, y, bin }) {
  const across = 2 ** z * BINS;
  const column = x * BINS + (bin % BINS);
  const line = y * BINS + Math.floor(bin / BINS);
  const west = (column / across) * 360 - 180;
  const east = ((column + 1) / across) * 360 - 180;
  return [[latitude((line + 1) / across), west], [latitude(line / across), east]];
}

export function centreOf(cell) {
  const [[south, west], [north, east]] = cornersOf(cell);
  return { lat: (south + north) / 2, lng: (west + east) / 2 };
}

// The figure of a bin as CauseMos' reader forms it: the sum, or the sum by the weight. Tiles hold no others.
export function figure(tile, position, { space, time }) {
  const sum = (time === "sum" ? tile.s_sum_t_sum : tile.s_sum_t_mean)[position];
  if (space === "sum") return sum;
  const weight = tile.weight[position];
  return weight ? sum / weight : null;
}

export const hasTiles = ({ space, time }) => space !== "wavg" && time !== "wavg";
