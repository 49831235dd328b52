"use strict";
// The script of a run's page, part one: numbers as text, where the lines of a grid lie, and making elements.
// Not here: drawing (page_curves.js). Texts of the run are only ever set as text, never read as markup.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function short(value) {
  const letters = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const [size, letter] = letters.find(([least]) => Math.abs(value) >= least) ?? [1, ""];
  return `${Number((value / size).toPrecision(3))}${letter}`;
}

function small(value) {
  if (value === 0 || Math.abs(value) >= 1e-3) return `${Number(value.toPrecision(3))}`;
  return value.toExponential(2).replace(/\.?0+e/, "e");
}

// how the numbers of a chart are read out, by its style
const WRITE = {
  loss: (value) => value.toFixed(3),
  count: short,
  rate: small,
  share: (value) => `${(100 * value).toFixed(1)}%`,
  score: (value) => value.toFixed(4),
  number: (value) => (Math.abs(value) >= 1e4 ? short(value) : `${Number(value.toPrecision(4))}`),
};

// grid lines: their values, and the text of each; as many digits as tell neighbours apart
function linearTicks(low, high, most) {
  const rough = ((high - low) / Math.max(1, most)) * 0.85;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * size).find((candidate) => candidate >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const count = clamp(Math.floor(high / step + 1e-9) - first + 1, 0, 3 * most + 3); // bounded, whatever the numbers are
  return Array.from({ length: count }, (_, k) => Number(((first + k) * step).toPrecision(12)));
}

function logTicks(low, high, most) {
  if (high / low < 10) return linearTicks(low, high, most);
  const factors = Math.log10(high / low) > most / 2 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of factors) ticks.push(Number(`${factor}e${power}`));
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

function tickTexts(style, ticks, decades) {
  if (decades) return ticks.map((tick) => (tick >= 1e3 ? short(tick) : small(tick)));
  const most = Math.max(...ticks.map(Math.abs));
  if (style === "count" || most >= 1e4) return ticks.map(short);
  if (style === "rate" || most < 1e-3) return ticks.map(small);
  const percent = style === "share" ? 100 : 1;
  const shown = ticks.map((tick) => Number((tick * percent).toPrecision(10)));
  const digits = Math.max(0, ...shown.map((tick) => (`${tick}`.split(".")[1] ?? "").length));
  return shown.map((tick) => tick.toFixed(digits) + (percent === 100 ? "%" : ""));
}

const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

function timeTicks(low, high, most) {
  const rough = (high - low) / Math.max(1, most);
  const size = TIMES.find((candidate) => candidate >= rough);
  if (high - low < 2 || !size) {
    const day = size ? 1 : 86400;
    return linearTicks(low / day, high / day, most).map((tick) => tick * day);
  }
  const first = Math.ceil(low / size);
  return Array.from({ length: Math.max(0, Math.floor(high / size) - first + 1) }, (_, k) => (first + k) * size);
}

// a duration in its two largest units: 45 s, 4 min 8 s, 2 h 5 min, 3 d 4 h
function span(seconds) {
  if (seconds < 60) return `${Number(seconds.toPrecision(3))} s`;
  const units = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
  const [size, unit, small, rest] = units.find(([least]) => seconds >= least);
  const more = Math.floor((seconds % size) / small);
  return `${Math.floor(seconds / size)} ${unit}${more ? ` ${more} ${rest}` : ""}`;
}

function make(parent, name, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  parent.append(element);
  return element;
}

function add(parent, name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  parent.append(element);
  return element;
}
