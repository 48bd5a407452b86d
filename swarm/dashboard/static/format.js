// Figures as people read them: three digits or so, and a unit. What is not known is a dash.

export const UNKNOWN = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

export function count(value) {
  return value === null ? UNKNOWN : whole.format(value);
}

/** 1.25 M, 402 k, 97 */
export function short(value) {
  if (value === null) return UNKNOWN;
  let unit = "";
  for (const next of ["k", "M", "G", "T"]) {
    if (Math.abs(value) < (unit === "" ? 10000 : 1000)) break;
    value /= 1000;
    unit = next;
  }
  return unit === "" ? whole.format(value) : `${digits(value)} ${unit}`;
}

export function rate(value) {
  if (value === null) return UNKNOWN;
  return value < 10 && value > 0 ? value.toFixed(1) : short(value);
}

/** Of an axis: all values in the same unit, which is the largest that the highest of them has. */
function scaled(values, units) {
  const [, size, unit] = units.find(([least]) => Math.max(...values) >= least) ?? units.at(-1);
  return values.map((value) => (value === 0 ? "0" : `${Number((value / size).toPrecision(6))}${unit}`));
}

export function rateAxis(values) {
  return scaled(values, [[2e6, 1e6, " M"], [2e3, 1e3, " k"], [0, 1, ""]]);
}

/** Of a power of ten. */
export function decadeOfMilliseconds(value) {
  const [size, unit] = value > 999 ? [1e3, "s"] : value > 0.9 ? [1, "ms"] : [1e-3, "µs"];
  return `${Math.round(value / size)} ${unit}`;
}

export function bytes(value) {
  if (value === null) return UNKNOWN;
  let unit = "B";
  for (const next of ["KiB", "MiB", "GiB", "TiB", "PiB"]) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return unit === "B" ? `${value} B` : `${digits(value)} ${unit}`;
}

export function milliseconds(value) {
  if (value === null) return UNKNOWN;
  if (value < 1) return `${whole.format(value * 1000)} µs`;
  return value < 1000 ? `${digits(value)} ms` : `${digits(value / 1000)} s`;
}

export function percent(part) {
  const value = part * 100;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  if (value < 100 && value > 99.99) return "> 99.99 %";
  return `${Number(value.toFixed(value < 1 || value > 99 ? 2 : 1))} %`;
}

/** The two largest units of it: 3 d 2 h, 2 h 12 min, 41 s */
export function duration(seconds) {
  if (seconds === null) return UNKNOWN;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first === -1) return "0 s";
  const [[name, size], next] = [units[first], units[first + 1]];
  const rest = next && name !== "min" ? Math.floor((seconds % size) / next[1]) : 0;
  return `${Math.floor(seconds / size)} ${name}` + (rest ? ` ${rest} ${next[0]}` : "");
}

export function time(at_s) {
  return clock.format(at_s * 1000);
}

/** The time, and the day where it is not today's. */
export function moment(at_s, now_s) {
  const [then, now] = [new Date(at_s * 1000), new Date(now_s * 1000)];
  const today = then.toDateString() === now.toDateString();
  return today ? clock.format(then) : `${day.format(then)} ${clock.format(then)}`;
}

export function counted(number, thing) {
  return `${count(number)} ${thing}${number === 1 ? "" : "s"}`;
}

function digits(value) {
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}
