/* Whether the server can be reached: the banner above the panels, and the models of the server.
 *
 * The page asks for /health only while the server is gone, loads or drains, more rarely the longer it takes.
 */
"use strict";
(() => {
    const { el, fill, t, api, failureListeners } = blankfill;
    const FIRST_WAIT = 1000, LONGEST_WAIT = 8000; // milliseconds

    const state = { phase: "start", models: [] };
    const listeners = new Set();
    const banner = el("div", { class: "banner", role: "status", hidden: true });
    let timer = 0;
    let wait = FIRST_WAIT;

    /** Note what the server is: "up", "gone", "loading", "draining" or "locked" (it needs a key). */
    function become(phase) {
        const before = state.phase;
        state.phase = phase;
        draw(before);
        clearTimeout(timer);
        if (phase === "gone" || phase === "loading" || phase === "draining") {
            timer = setTimeout(look, wait);
            wait = Math.min(LONGEST_WAIT, wait * 1.5);
        } else wait = FIRST_WAIT;
    }

    /** Draw the banner. */
    function draw(before = state.phase) {
        const phase = state.phase;
        const text = el("span", {}, phase === "locked" ? t("key.needed") : t(`banner.${phase}`));
        if (phase === "up" && (before === "up" || before === "start" || before === "locked")) banner.hidden = true;
        else if (phase === "up") {
            fill(banner, el("span", {}, t("banner.back")));
            setTimeout(() => { if (state.phase === "up") banner.hidden = true; }, 3000);
        } else if (phase !== "start") {
            const act = phase === "locked" ? el("button", { class: "quiet", type: "button", onclick: () => blankfill.openKey() }, t("key.enter"))
                : el("button", { class: "quiet", type: "button", onclick: look }, t("banner.retry"));
            fill(banner, text, act);
            banner.hidden = false;
        }
        banner.dataset.phase = phase;
    }

    /** Ask the server how it is, and for its models once it takes requests. */
    async function look() {
        clearTimeout(timer);
        const phase = await health();
        if (phase !== "up") return become(phase);
        try {
            state.models = (await api("/v1/models")).data;
        } catch (failure) {
            if (failure.status !== 401 && failure.status !== 0) become("gone");
            return;
        }
        become("up");
        listeners.forEach((listener) => listener(state.models));
    }

    async function health() {
        try {
            const response = await fetch("/health", { cache: "no-store" });
            if (response.ok) return "up";
            const { status } = await response.json();
            return status === "draining" ? "draining" : status === "loading" ? "loading" : "gone";
        } catch {
            return "gone";
        }
    }

    failureListeners.add((failure) => {
        if (failure.status === 401) become("locked");
        else if (failure.status === 0) become("gone");
        else if (failure.status === 503 && state.phase === "up") look();
    });

    blankfill.connection = { state, banner, look, draw, listeners };
})();
