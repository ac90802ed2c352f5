// How numbers, times and names read; and making elements, which is the only way text enters the page.

const ROUND = new Intl.NumberFormat("en", { minimumSignificantDigits: 4, maximumSignificantDigits: 4 });
const PLAIN = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3, notation: "compact" });
const SMALL = new Intl.NumberFormat("en", { maximumSignificantDigits: 4, notation: "scientific" });
const MONTH = new Intl.DateTimeFormat("en", { month: "short", year: "numeric", timeZone: "UTC" });
const YEAR = new Intl.DateTimeFormat("en", { year: "numeric", timeZone: "UTC" });

export const NOTHING = "–";

export function number(value, format = PLAIN) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  const size = Math.abs(value);
  return (value !== 0 && (size < 1e-4 || size >= 1e12) ? SMALL : format).format(value);
}

// Where there is little room.
export const brief = (value) => number(value, Number.isInteger(value) ? PLAIN : ROUND);

// For the ticks of an axis.
export function tick(value) {
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-4 || size >= 1e15)) return SMALL.format(value);
  return (size >= 10_000 ? SHORT : PLAIN).format(value);
}

export const moment = (timestamp, resolution) => (resolution === "year" ? YEAR : MONTH).format(timestamp);

export const SEPARATOR = "__";
const MISSING = "None";
export const regionName = (id) => id.split(SEPARATOR).join(" › ");
// The deepest name that there is: levels below it are missing.
export const lastName = (id) => id.split(SEPARATOR).findLast((name) => name !== MISSING) ?? MISSING;

// What is searched: "cote" finds Côte d'Ivoire.
export const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

export function coordinates({ lat, lng }) {
  const side = (value, positive, negative) => `${Math.abs(value).toFixed(2)}° ${value < 0 ? negative : positive}`;
  return `${side(lat, "N", "S")}, ${side(lng, "E", "W")}`;
}

// An element with properties and children; texts among these become text, never markup.
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Other children for a box. What has the focus keeps it, known by its `data-key`; where it is not there any more, the
// box has it, so that whoever has a keyboard only goes on from the same place.
export function refill(box, ...children) {
  const focused = box.contains(document.activeElement) && document.activeElement !== box ? document.activeElement : null;
  box.replaceChildren(...children);
  if (!focused) return;
  const again = [...box.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused.dataset.key);
  (again ?? box).focus({ preventScroll: true });
}

// Disable or hide a control. Where it has the focus, something near has it first: afterwards it would be lost.
export function takeAway(control, how, isSo, next) {
  if (isSo && control.contains(document.activeElement)) next.focus({ preventScroll: true });
  control[how] = isSo;
}
