// From numbers to colours: palettes, which are those of the pictures for other programs, and scales.

const STEPS = 256;
let ramps = {};

// palettes: names and colours (`rrggbb`) from the smallest value to the largest.
export function learn(palettes) {
  ramps = Object.fromEntries(Object.entries(palettes).map(([name, hexes]) => {
    const anchors = hexes.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    return [name, Array.from({ length: STEPS }, (_, step) => {
      const at = (step / (STEPS - 1)) * (anchors.length - 1);
      const before = Math.min(Math.floor(at), anchors.length - 2);
      const mixed = anchors[before].map((low, channel) =>
        Math.round(low + (at - before) * (anchors[before + 1][channel] - low)));
      return `rgb(${mixed.join(" ")})`;
    })];
  }));
}

export const isPalette = (name) => name in ramps && name !== DIFFERENCE;
export const DIFFERENCE = "difference";
export const SCALES = { linear: "even steps", log: "logarithmic", quantile: "equal numbers of cells" };

// How values become colours. `values` are those in sight, which quantiles are made of; so is the smallest end
// of a logarithmic scale where the range reaches to 0 or below.
export class Scale {
  constructor(kind, palette, [least, most], values = []) {
    this.ramp = ramps[palette];
    this.kind = kind;
    [this.least, this.most] = [least, most];
    if (kind === "quantile") {
      this.sorted = Float64Array.from(values).sort();
      if (this.sorted.length) [this.least, this.most] = [this.sorted[0], this.sorted.at(-1)];
    }
    if (kind === "log" && least <= 0) {
      const positive = values.filter((value) => value > 0);
      this.least = positive.length ? positive.reduce((one, other) => Math.min(one, other)) : 1;
      this.below = true;  // Values that have no logarithm take the lowest colour.
    }
  }

  // Whether a scale of this kind has to know the values in sight.
  static needsValues(kind, [least]) {
    return kind === "quantile" || (kind === "log" && least <= 0);
  }

  // Where a value lies between the ends, from 0 to 1; the middle where both are the same.
  share(value) {
    const { kind, least, most, sorted } = this;
    if (kind === "quantile" && sorted.length > 1) {
      let [low, high] = [0, sorted.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (sorted[middle] < value) low = middle + 1;
        else high = middle;
      }
      return Math.min(low / (sorted.length - 1), 1);
    }
    if (!(most > least)) return 0.5;
    const share = kind === "log"
      ? (value <= least ? 0 : Math.log(value / least) / Math.log(most / least))
      : (value - least) / (most - least);
    return Math.min(Math.max(share, 0), 1);
  }

  // The value at a share.
  at(share) {
    const { kind, least, most, sorted } = this;
    if (kind === "quantile" && sorted.length) return sorted[Math.round(share * (sorted.length - 1))];
    if (kind === "log" && most > least) return least * (most / least) ** share;
    return least + share * (most - least);
  }

  colour(value) {
    return this.ramp[Math.round(this.share(value) * (STEPS - 1))];
  }

  get gradient() {
    return `linear-gradient(to right, ${this.ramp.filter((_, step) => step % 17 === 0).join(", ")})`;
  }
}

// Lines, far apart to every eye: those of the two runs that are compared come first.
export const LINES = ["#0063a6", "#c2410c", "#3f7d20", "#7b3fa0", "#8a5a00", "#b0125b", "#37506b"];
