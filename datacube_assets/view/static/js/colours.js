// From numbers to colours: viridis, which reads the same to colour-blind people and in grey.

const ANCHORS = [
  "440154", "48196b", "462f7c", "404387", "38568b", "30678d", "29788e", "23888d",
  "1e988a", "22a784", "35b778", "53c567", "79d151", "a5da35", "d2e11b", "fde724",
].map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
const STEPS = 256;

const RAMP = Array.from({ length: STEPS }, (_, step) => {
  const at = (step / (STEPS - 1)) * (ANCHORS.length - 1);
  const before = Math.min(Math.floor(at), ANCHORS.length - 2);
  const mixed = ANCHORS[before].map((low, channel) =>
    Math.round(low + (at - before) * (ANCHORS[before + 1][channel] - low)));
  return `rgb(${mixed.join(" ")})`;
});

// The colour of a value within a range; a range of one value has the colour of the middle.
export function colour(value, [least, most]) {
  const share = most > least ? (value - least) / (most - least) : 0.5;
  return RAMP[Math.round(Math.min(Math.max(share, 0), 1) * (STEPS - 1))];
}

// Lines of the two runs that are compared: blue and vermilion, far apart to every eye.
export const LINES = ["#0063a6", "#c2410c"];
