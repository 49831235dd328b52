// The script of a run's page, part four: while the run trains, the page is read again, where the reader left it.
// A page whose run is silent for too long says so and is read no more; a page of a finished run has no `data.live`.

const LEFT_AT = `blankfill report ${location.pathname}`;
const slider = () => document.querySelector("[data-steps]");
const lastStep = (input) => Number(input.value) === Number(input.max);

function leave() {
  const details = [...document.querySelectorAll("details")].map((one) => one.open);
  const step = slider() && !lastStep(slider()) ? slider().dataset.steps.split(" ")[slider().value] : null;
  const focus = document.activeElement?.id || null;
  try {
    sessionStorage.setItem(LEFT_AT, JSON.stringify({ y: scrollY, zoom, x: choices.x, details, step, focus }));
  } catch {
    // a browser that keeps nothing for files begins at the top
  }
}

function comeBack() {
  let left = null;
  try {
    left = JSON.parse(sessionStorage.getItem(LEFT_AT));
    sessionStorage.removeItem(LEFT_AT);
  } catch {
    left = null;
  }
  if (!left) return;
  const details = [...document.querySelectorAll("details")];
  if (details.length === left.details.length) details.forEach((one, k) => { one.open = left.details[k]; });
  if (left.zoom && left.x === choices.x && views.length) zoomTo(left.zoom);
  const at = left.step === null || !slider() ? -1 : slider().dataset.steps.split(" ").indexOf(left.step);
  if (at >= 0) {
    slider().value = at;
    slider().dispatchEvent(new Event("input"));
  }
  if (left.focus) document.getElementById(left.focus)?.focus({ preventScroll: true });
  scrollTo({ top: left.y, behavior: "instant" });
}

function stayLive(live) {
  const state = document.querySelector(".state");
  const said = state.textContent;
  const opened = Date.now();
  let touched = 0;
  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "input"]) {
    addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  }
  state.classList.add("live");
  const timer = setInterval(() => {
    const now = Date.now();
    if (now / 1000 - live.written > live.until) {
      clearInterval(timer);
      state.className = "state early";
      const time = new Date(1000 * live.written).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      state.textContent = `${said}; no news since ${time}, so the run may have ended`;
      return;
    }
    const busy = now - touched < 3000 || getSelection()?.type === "Range";
    if (document.hidden || busy || now - opened < 1000 * live.every) return;
    clearInterval(timer);
    leave();
    location.reload();
  }, 500);
}

comeBack();
if (data.live) stayLive(data.live);
