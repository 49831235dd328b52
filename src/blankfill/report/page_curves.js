// The script of a run's page, part two: the curves, the cursor that reads them, and the controls above them.
// Each chart is drawn anew at the width that it has, so that its words keep their size on a phone.

const data = JSON.parse(document.getElementById("data").textContent);
const REMEMBERED = "blankfill report";
// the choices outlive a reload, since the page of a running run is reloaded often
const choices = { x: "step", scale: "linear", smooth: 1, ...recall() };
let zoom = null;
let cursor = null;

function recall() {
  try {
    return JSON.parse(sessionStorage.getItem(REMEMBERED));
  } catch {
    return null;
  }
}

function remember() {
  try {
    sessionStorage.setItem(REMEMBERED, JSON.stringify(choices));
  } catch {
    // a browser that keeps nothing for files still shows everything
  }
}

// series of a page of several runs name their kind and their colour, since each run has splits of its own
const kindOf = (series) => series.kind ?? series.split;
const colourOf = (series) => series.tone ?? (["train", "valid"].includes(series.split) ? series.split : "other");
const ACROSS = { step: "steps", tokens: "tokens seen", time: "training time" };

function pointsOf(series) {
  const split = data.splits[series.split];
  const points = series.y.map((y, k) => ({
    x: split[choices.x]?.[k] ?? null, y, smooth: y, low: series.low?.[k] ?? y, high: series.high?.[k] ?? y,
    step: split.step[k], tokens: split.tokens[k], time: split.time?.[k] ?? null,
  }));
  return points.filter((point) => point.x !== null && point.y !== null);
}

// An exponential average to both sides: unlike the usual one to the left it does not lag behind a steep start.
function smoothen(points, percent) {
  const keep = 1 - 1 / Math.max(1, (points.length * percent) / 200);
  if (keep === 0) return false;
  const sums = points.map(() => [0, 0]);
  for (const order of [points.keys(), [...points.keys()].reverse()]) {
    let [total, weight] = [0, 0];
    for (const k of order) {
      sums[k][0] += total;
      sums[k][1] += weight;
      total = keep * (total + points[k].y);
      weight = keep * (weight + 1);
    }
  }
  points.forEach((point, k) => {
    point.smooth = (point.y + sums[k][0]) / (1 + sums[k][1]);
  });
  return true;
}

function extent() {
  if (zoom) return zoom;
  const all = Object.values(data.splits).flatMap((split) => (split[choices.x] ?? []).filter((x) => x !== null));
  const low = all.reduce((a, b) => Math.min(a, b), Infinity);
  const high = all.reduce((a, b) => Math.max(a, b), -Infinity);
  if (low > high) return [0, 1];
  return low < high ? [low, high] : [Math.max(0, low - 1), low + 1];
}

// the lowest and the highest value in sight, with some air around them
function range(view, x0, x1) {
  const { chart } = view;
  const seen = view.curves.flatMap(({ points }) => points.filter((point) => point.x >= x0 && point.x <= x1));
  if (!seen.length) return { low: 0, high: 1, log: false };
  let low = seen.reduce((least, point) => Math.min(least, point.low), Infinity);
  let high = seen.reduce((most, point) => Math.max(most, point.high), -Infinity);
  if (chart.reference && !zoom && chart.reference.y < 3 * high) {
    low = Math.min(low, chart.reference.y);
    high = Math.max(high, chart.reference.y);
  }
  if (choices.scale === "log" && low > 0 && high / low < 1e30 && ["loss", "number"].includes(chart.style)) {
    const air = Math.max((high / low) ** 0.05 * 1.001, Math.sqrt(1.05 / (high / low)));
    return { low: low / air, high: high * air, log: true };
  }
  // a change smaller than the chart's smallest span does not fill it
  const air = Math.max((high - low) * 0.06, (chart.span - (high - low)) / 2) || Math.abs(high) * 0.05 || 1;
  const fromZero = low >= 0 && !["loss", "score"].includes(chart.style) && (chart.style !== "number" || low < high / 3);
  // scores end at 0 and 1, so a chart does not reach far beyond
  let shift = 0;
  if (chart.style === "score" && high <= 1) shift = Math.min(0, 1.01 - high - air);
  if (chart.style === "score" && low >= 0) shift = Math.max(shift, air - low - 0.01);
  return { low: fromZero ? 0 : low - air + shift, high: high + air + shift, log: false };
}

const path = (points, x, y) =>
  points.map((point, k) => `${k ? "L" : "M"}${x(point.x).toFixed(1)} ${y(point).toFixed(1)}`).join("");

function draw(view) {
  const { chart, svg, main } = view;
  const width = Math.max(240, view.plot.clientWidth);
  const height = main ? clamp(width * 0.4, 260, 400) : 210;
  view.curves = chart.series.map((series) => {
    const points = pointsOf(series);
    const smoothed = kindOf(series) === "train" && chart.key !== "lr" && smoothen(points, choices.smooth);
    return { series, points, smoothed };
  });
  const [x0, x1] = extent();
  const { low, high, log } = range(view, x0, x1);
  const across = (log ? logTicks : linearTicks)(low, high, height / 48);
  const labels = tickTexts(chart.style, across, log && high / low >= 10);
  const left = 15 + 6.7 * Math.max(2, ...labels.map((label) => label.length));
  const [right, top, bottom] = [width - 14, data.events.length ? 18 : 10, height - (main ? 42 : 26)];
  const x = (value) => left + ((value - x0) / (x1 - x0)) * (right - left);
  const bend = log ? Math.log : (value) => value;
  const y = (value) => bottom - ((bend(value) - bend(low)) / (bend(high) - bend(low))) * (bottom - top);
  Object.assign(view, { x, y, x0, x1, left, right, top, bottom, width });

  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  across.forEach((tick, k) => {
    make(svg, "line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) });
    make(svg, "text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, labels[k]);
  });
  make(svg, "line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom });
  const isTime = choices.x === "time";
  let taken = -Infinity;
  for (const tick of (isTime ? timeTicks : linearTicks)(x0, x1, width / 110)) {
    make(svg, "line", { class: "axis", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4 });
    const anchor = x(tick) > right - 12 ? "end" : "middle";
    const place = { x: Math.min(x(tick), right + 12), y: bottom + 17, "text-anchor": anchor };
    const text = make(svg, "text", place, isTime ? span(tick) : short(tick));
    const box = text.getBBox();
    if (box.x < taken + 6) text.remove();
    else taken = box.x + box.width;
  }
  if (main) make(svg, "text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, ACROSS[choices.x]);
  view.labels = [];
  const id = `inside-${data.charts.indexOf(chart)}`;
  const clip = make(svg, "clipPath", { id });
  make(clip, "rect", { x: left - 6, y: top - 8, width: right - left + 12, height: bottom - top + 8 });
  const inside = make(svg, "g", { "clip-path": `url(#${id})` });
  for (const curve of view.curves) drawCurve(view, inside, curve);
  drawReference(view, inside, low, high);
  drawEvents(view, inside);
  drawBest(view);
  view.layer = make(svg, "g");
}

function drawCurve(view, inside, { series, points, smoothed }) {
  const { x, y } = view;
  const group = make(inside, "g", { class: colourOf(series) });
  if (series.low) {
    const back = path([...points].reverse(), x, (point) => y(point.low)).replace("M", "L");
    make(group, "path", { class: "band", d: `${path(points, x, (point) => y(point.high))}${back}Z` });
  }
  if (smoothed) make(group, "path", { class: "raw", d: path(points, x, (point) => y(point.y)) });
  make(group, "path", { class: "curve", d: path(points, x, (point) => y(point.smooth)) });
  const seen = points.filter((point) => point.x >= view.x0 && point.x <= view.x1);
  if (points.length > 1 && (kindOf(series) !== "valid" || seen.length > view.width / 14)) return;
  const r = view.main ? 3.6 : 3;
  for (const point of seen) make(group, "circle", { class: "dot", cx: x(point.x), cy: y(point.y), r });
}

function drawReference(view, inside, low, high) {
  const { chart, y, left, right, top } = view;
  if (!chart.reference || chart.reference.y < low || chart.reference.y > high) return;
  const at = y(chart.reference.y);
  make(inside, "path", { class: "reference", d: `M${left} ${at}H${right}` });
  const [above, below] = [at - 7, at + 16].map((level) => ({ x: right - 4, y: level, "text-anchor": "end" }));
  const places = at - top < 22 ? [below, above] : [above, below];
  const others = places.map((place) => ({ ...place, x: view.left + 6, "text-anchor": "start" }));
  label(view, [...places, ...others], `${chart.reference.name} ${WRITE[chart.style](chart.reference.y)}`);
}

// whether a curve passes through a box
function crosses(view, box) {
  const inside = (px, py) => px > box.x - 2 && px < box.x + box.width + 2 && py > box.y && py < box.y + box.height;
  return view.curves.some(({ points }) => points.some((point, k) => {
    const before = points[Math.max(0, k - 1)];
    const [ax, ay, bx, by] = [view.x(before.x), view.y(before.smooth), view.x(point.x), view.y(point.smooth)];
    if (Math.max(ax, bx) < box.x || Math.min(ax, bx) > box.x + box.width) return false;
    return Array.from({ length: 33 }, (_, part) => part / 32).some((t) => inside(ax + t * (bx - ax), ay + t * (by - ay)));
  }));
}

// a label at the first of some places where no curve and no other label is and the chart does not end
function label(view, places, words) {
  const text = make(view.svg, "text", { class: "label" }, words);
  const put = (place) => Object.entries(place).forEach(([key, value]) => text.setAttribute(key, value));
  const fits = (curves) => places.some((place) => {
    put(place);
    const box = text.getBBox();
    if (curves && crosses(view, box)) return false;
    const inside = box.x >= view.left && box.x + box.width <= view.right + 14 && box.y >= view.top - 18 &&
      box.y + box.height <= view.bottom + 2;
    return inside && view.labels.every((other) => box.x > other.x + other.width || other.x > box.x + box.width ||
      box.y > other.y + other.height || other.y > box.y + box.height);
  });
  if (!fits(true) && !fits(false)) put(places[0]);
  view.labels.push(text.getBBox());
}

const marked = () => data.events.filter((event) => (event[choices.x] ?? null) !== null);

function drawEvents(view, inside) {
  for (const event of marked()) {
    const at = view.x(event[choices.x]);
    const group = make(inside, "g", { class: `t-${event.tone}` });
    make(group, "line", { class: "event", x1: at, x2: at, y1: view.top, y2: view.bottom });
    make(group, "path", { class: "flag", d: `M${at - 5} ${view.top - 8}h10l-5 8z` });
  }
}

function drawBest(view) {
  const { chart, svg, x, y, x0, x1, left, right } = view;
  const best = chart.best;
  const at = best?.[choices.x] ?? null;
  if (at === null || at < x0 || at > x1) return;
  const group = make(svg, "g", { class: "valid" });
  make(group, "circle", { class: "best", cx: x(at), cy: y(best.y), r: 6 });
  const anchor = x(at) > right - 60 ? "end" : x(at) < left + 60 ? "start" : "middle";
  const [above, below] = [-13, 22].map((far) => ({ x: x(at), y: y(best.y) + far, "text-anchor": anchor }));
  const beside = { x: x(at) - 12, y: y(best.y) + 4, "text-anchor": "end" };
  label(view, [above, below, beside], `best ${WRITE[chart.style](best.y)}`);
}

function nearest(points, value) {
  let [low, high] = [0, points.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].x < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - points[low - 1].x < points[low].x - value ? low - 1 : low;
}

const finest = (view) => view.curves.reduce((most, { points }) => (points.length > most.length ? points : most), []);

// the cursor is one for all charts; the chart under the pointer shows the values at the cursor
function showCursor(source) {
  for (const view of views) {
    view.layer.replaceChildren();
    view.tip.hidden = true;
    const points = finest(view);
    if (cursor === null || !points.length) continue;
    const lead = points[nearest(points, cursor)];
    if (lead.x < view.x0 || lead.x > view.x1) continue;
    const at = view.x(lead.x);
    make(view.layer, "line", { class: "cursor", x1: at, x2: at, y1: view.top, y2: view.bottom });
    for (const curve of view.curves) {
      const point = curve.points[nearest(curve.points, cursor)];
      if (!point || point.x < view.x0 || point.x > view.x1) continue;
      const group = make(view.layer, "g", { class: colourOf(curve.series) });
      make(group, "circle", { class: "dot", cx: view.x(point.x), cy: view.y(point.smooth), r: 4.5 });
    }
    if (view === source) tell(view, lead, at);
  }
}

function tell(view, lead, at) {
  const { tip, plot } = view;
  const write = WRITE[view.chart.style];
  tip.replaceChildren();
  tip.hidden = false;
  const tokens = lead.tokens === null ? "" : ` · ${short(lead.tokens)} tokens`;
  const time = lead.time === null ? "" : ` · ${span(lead.time)}`;
  add(tip, "div", "when", `step ${whole.format(lead.step)}${tokens}${time}`);
  for (const { series, points, smoothed } of view.curves) {
    const point = points[nearest(points, cursor)];
    if (!point) continue;
    const row = add(tip, "div", colourOf(series), `${series.name} `);
    add(row, "b", "", write(point.y));
    if (point.low < point.high) add(row, "small", "", ` ${write(point.low)} to ${write(point.high)}`);
    if (smoothed) add(row, "small", "", `, smoothed ${write(point.smooth)}`);
    if (point.step !== lead.step) add(row, "small", "", ` at step ${whole.format(point.step)}`);
  }
  const near = marked().filter((event) => Math.abs(view.x(event[choices.x]) - at) < 7);
  for (const event of near.slice(0, 3)) {
    const row = add(tip, "div", `t-${event.tone}`);
    add(row, "b", "", event.kind);
    row.append(` ${event.text}`);
  }
  if (near.length > 3) add(tip, "small", "", `and ${near.length - 3} more events here`);
  const beside = (at * plot.clientWidth) / view.width;
  const fits = beside + 14 + tip.offsetWidth < plot.clientWidth;
  tip.style.left = `${fits ? beside + 14 : Math.max(0, beside - 14 - tip.offsetWidth)}px`;
}

function hideCursor() {
  cursor = null;
  showCursor(null);
}

function zoomTo(span) {
  zoom = span;
  document.getElementById("unzoom").hidden = zoom === null;
  drawAll();
}

function drawAll() {
  views.forEach(draw);
  showCursor(null);
}

function listen(view) {
  const { svg } = view;
  let from = null;
  let brush = null;
  const valueAt = (event) => {
    const box = svg.getBoundingClientRect();
    const at = clamp(((event.clientX - box.left) / box.width) * view.width, view.left, view.right);
    return view.x0 + ((at - view.left) / (view.right - view.left)) * (view.x1 - view.x0);
  };
  svg.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button !== 0) return;
    from = valueAt(event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    cursor = valueAt(event);
    showCursor(view);
    if (from === null) return;
    const [a, b] = [view.x(from), view.x(cursor)].sort((p, q) => p - q);
    brush ??= make(svg, "rect", { class: "brush", y: view.top, height: view.bottom - view.top });
    brush.setAttribute("x", a);
    brush.setAttribute("width", b - a);
  });
  const release = (event) => {
    const span = from === null ? null : [from, valueAt(event)].sort((p, q) => p - q);
    from = null;
    brush?.remove();
    brush = null;
    if (span && event.type === "pointerup" && view.x(span[1]) - view.x(span[0]) > 8) zoomTo(span);
  };
  svg.addEventListener("pointerup", release);
  svg.addEventListener("pointercancel", release);
  svg.addEventListener("dblclick", () => zoomTo(null));
  svg.addEventListener("pointerleave", hideCursor);
  svg.addEventListener("blur", hideCursor);
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity };
    const points = finest(view).filter((point) => point.x >= view.x0 && point.x <= view.x1);
    if (event.key === "Escape") zoomTo(null);
    if (!(event.key in moves) || !points.length) return;
    event.preventDefault();
    const now = cursor === null ? points.length - 1 : nearest(points, cursor) + moves[event.key];
    cursor = points[clamp(now, 0, points.length - 1)].x;
    showCursor(view);
  });
}

function control() {
  for (const kind of ["tokens", "time"]) {
    const known = Object.values(data.splits).some((split) => split[kind]?.some((value) => value > 0));
    document.querySelector(`[name=x][value=${kind}]`).disabled = !known;
    if (!known && choices.x === kind) choices.x = "step";
  }
  for (const name of ["x", "scale"]) {
    for (const input of document.querySelectorAll(`[name=${name}]`)) {
      input.checked = input.value === choices[name];
      input.addEventListener("change", () => {
        choices[name] = input.value;
        remember();
        zoomTo(name === "x" ? null : zoom);
      });
    }
  }
  const smooth = document.getElementById("smooth");
  const say = () => {
    document.getElementById("smoothness").textContent = choices.smooth > 0 ? `${choices.smooth}%` : "off";
  };
  smooth.value = choices.smooth;
  smooth.addEventListener("input", () => {
    choices.smooth = Number(smooth.value);
    say();
    remember();
    drawAll();
  });
  say();
  document.getElementById("unzoom").addEventListener("click", () => zoomTo(null));
  new ResizeObserver(drawAll).observe(views[0].plot.parentElement.parentElement);
}

document.documentElement.classList.add("js");
for (const details of document.querySelectorAll("details[open]")) details.open = false;
const views = [...document.querySelectorAll("[data-chart]")].map((figure) => {
  const plot = figure.querySelector(".plot");
  const svg = plot.querySelector("svg");
  const tip = add(plot, "div", "tip");
  tip.hidden = true;
  tip.setAttribute("role", "status");
  svg.setAttribute("tabindex", "0");
  return { chart: data.charts[Number(figure.dataset.chart)], main: figure.classList.contains("main"), plot, svg, tip };
});
if (views.length) {
  views.forEach(draw);
  views.forEach(listen);
  control();
}
