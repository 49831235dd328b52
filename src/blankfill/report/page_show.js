"use strict";
// The script of a page of training examples: what the chosen token sees, and what sees it, in its strip and its square.
// Texts are only ever set as text, never read as markup.

const { rows } = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const MOST_NAMED = 12;

function explore(part, row) {
  const tokens = [...part.querySelectorAll(".tok")];
  const svg = part.querySelector(".square svg");
  const info = part.querySelector(".info");
  const marks = svg.querySelector(".marks");
  const words = [...svg.querySelectorAll(".w")];
  const dots = [...part.querySelectorAll(".plane .d")];
  const [margin, cell] = [Number(svg.dataset.margin), Number(svg.dataset.cell)];
  const name = (k) => tokens[k].querySelector(".t").textContent;
  const all = tokens.map((_, k) => k);
  let kept = null; // the token that a click or the Enter key has chosen
  info.textContent = "Choose a token.";

  function box(x, y, width, height, className) {
    const rect = document.createElementNS(SVG, "rect");
    const values = { x: margin + cell * x, y: margin + cell * y, width: cell * width, height: cell * height };
    for (const [key, value] of Object.entries(values)) rect.setAttribute(key, value);
    rect.setAttribute("class", className);
    marks.append(rect);
  }

  function listed(columns) {
    const shown = columns.slice(0, MOST_NAMED).map((k) => `«${name(k)}»`).join(" ");
    return columns.length > MOST_NAMED ? `${shown} and ${columns.length - MOST_NAMED} more` : shown || "none";
  }

  function line(parts) {
    const out = document.createElement("span");
    for (const [text, strong] of parts) {
      const piece = document.createElement(strong ? "b" : "span");
      piece.textContent = text;
      out.append(piece);
    }
    out.append(document.createElement("br"));
    return out;
  }

  // k: the chosen token; key: the key under the pointer, inside the square
  function choose(k, key = null) {
    marks.replaceChildren();
    for (const token of tokens) token.classList.remove("chosen", "seen", "seer", "both");
    for (const named of [...words, ...dots])
      named.classList.toggle("on", k !== null && [k, key].includes(Number(named.dataset.k)));
    if (k === null) {
      info.textContent = "Choose a token.";
      return;
    }
    const sees = all.filter((j) => row.sees[k][j] === "1");
    const seers = all.filter((i) => row.sees[i][k] === "1");
    for (const j of all) {
      if (j === k) continue;
      const [seen, seer] = [row.sees[k][j] === "1", row.sees[j][k] === "1"];
      if (seen || seer) tokens[j].classList.add(seen && seer ? "both" : seen ? "seen" : "seer");
    }
    tokens[k].classList.add("chosen");
    box(0, k, tokens.length, 1, "query-mark");
    box(k, 0, 1, tokens.length, "key-mark");
    if (key !== null) box(key, k, 1, 1, "pair-mark");
    const pair = key === null ? "" : `; it ${row.sees[k][key] === "1" ? "sees" : "does not see"} «${name(key)}»`;
    const near = row.near ? all.filter((j) => row.near[k][j] === "1").length : null;
    const local = near === null ? "" : ` (${near} of them in a local layer)`;
    info.replaceChildren(
      line([[tokens[k].getAttribute("aria-label"), true], [pair, false]]),
      line([[`sees ${sees.length}${local}: `, false], [listed(sees), false]]),
      line([[`seen by ${seers.length}: `, false], [listed(seers), false]]),
    );
  }

  const rest = () => choose(kept);
  function keep(k) {
    kept = kept === k ? null : k;
    choose(kept ?? k);
  }

  tokens.forEach((token, k) => {
    token.addEventListener("pointerenter", () => choose(k));
    token.addEventListener("pointerleave", rest);
    token.addEventListener("focus", () => choose(k));
    token.addEventListener("blur", rest);
    token.addEventListener("click", () => keep(k));
    token.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: k - 1, ArrowUp: k - 1, ArrowRight: k + 1, ArrowDown: k + 1, Home: 0, End: all.length - 1 };
      if (event.key === "Escape") {
        kept = null;
        choose(null);
      }
      if (!(event.key in moves)) return;
      event.preventDefault();
      const to = Math.min(all.length - 1, Math.max(0, moves[event.key]));
      token.tabIndex = -1;
      tokens[to].tabIndex = 0;
      tokens[to].focus();
    });
  });

  function pairAt(event) {
    const frame = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / frame.width;
    const at = [event.clientY - frame.top, event.clientX - frame.left].map((far) => Math.floor((far * scale - margin) / cell));
    return at.every((k) => k < all.length) && at.some((k) => k >= 0) ? at : null;
  }

  for (const dot of dots) {
    dot.addEventListener("pointerenter", () => choose(Number(dot.dataset.k)));
    dot.addEventListener("pointerleave", rest);
  }
  svg.addEventListener("pointermove", (event) => {
    const at = pairAt(event);
    if (!at) return rest();
    const [query, key] = at;
    return query < 0 ? choose(key) : choose(query, key < 0 ? null : key); // a word above its column, or left of its line
  });
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("click", (event) => {
    const at = pairAt(event);
    if (at) keep(at[0] < 0 ? at[1] : at[0]);
  });
}

document.documentElement.classList.add("js");
for (const part of document.querySelectorAll("[data-row]")) explore(part, rows[Number(part.dataset.row)]);
