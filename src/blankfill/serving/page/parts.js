/* Widgets that panels share: fields, the button that runs and stops, messages beside an input, bars, empty states. */
"use strict";
(() => {
    const { el, fill, t, uid, percent } = blankfill;

    /** Return a label with its control below and a hint, if any. control: an element; its id is set where it has none. */
    function field(label, control, hint = null) {
        control.id ||= uid("field");
        const note = hint && el("p", { class: "hint", id: uid("hint") }, hint);
        if (note) control.setAttribute("aria-describedby", note.id);
        return el("div", { class: "field" }, el("label", { for: control.id }, label), control, note);
    }

    /**
     * Return a menu. options: `[value, text]` pairs or plain texts. onchange gets the value.
     */
    function menu(options, value, onchange, attributes = {}) {
        const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
        const items = pairs.map(([key, text]) => el("option", { value: key, selected: key === value }, text));
        return el("select", { ...attributes, onchange: (event) => onchange(event.target.value) }, items);
    }

    /**
     * Return a field for text that grows with what stands in it. oninput gets the text. attributes: `rows`, `placeholder`,
     * `aria-label` and so on; `class: "prose"` for texts that the model reads.
     */
    function textarea(value, oninput, attributes = {}) {
        const node = el("textarea", {
            rows: 2, spellcheck: "false", ...attributes, value, oninput: () => { grow(); oninput(node.value); },
        });
        const grow = () => {
            node.style.height = "auto";
            if (node.scrollHeight) node.style.height = `${node.scrollHeight + 2}px`;
        };
        node.setValue = (text) => { node.value = text; grow(); };
        new ResizeObserver(() => requestAnimationFrame(grow)).observe(node.parentElement ?? node);
        requestAnimationFrame(grow);
        return node;
    }

    /** Return a place for an error beside an input: `{node, show(error), clear()}`. A screen reader reads it at once. */
    function errorSpot() {
        const node = el("p", { class: "error", role: "alert" });
        return {
            node,
            show(error) { fill(node, typeof error === "string" ? error : error.message); },
            clear() { fill(node); },
        };
    }

    /**
     * Return a button that runs something and one that stops it: `{node, error, run(), stop(), busy()}`.
     *
     * work(signal): an async function that may return a sentence for screen readers; what it throws is shown in `error` (an `errorSpot`; node contains it): an ApiFailure,
     * or an Error whose message is a sentence for the user. A run while another is under way stops the first. label: of the button. quiet: leave the message for screen readers to the panel.
     */
    function runner(work, { label = t("run"), quiet = false } = {}) {
        const spot = errorSpot();
        const status = el("p", { class: "sr-only", role: "status" });
        const start = el("button", { class: "primary", type: "button", onclick: () => run() }, label);
        const end = el("button", { class: "quiet stop", type: "button", onclick: () => stop(), disabled: true }, t("stop"));
        const node = el("div", { class: "runner" }, start, end, el("span", { class: "pulse", "aria-hidden": "true" }), status, spot.node);
        let current = null;

        async function run() {
            current?.abort();
            const mine = (current = new AbortController());
            spot.clear();
            node.classList.add("busy");
            end.disabled = false;
            if (!quiet) fill(status, t("running"));
            try {
                const said = await work(mine.signal);
                if (current === mine && !quiet) fill(status, said ?? t("done"));
            } catch (error) {
                if (error.name !== "AbortError") {
                    if (error.constructor !== Error && !(error instanceof blankfill.ApiFailure)) console.error(error);
                    if (current === mine) spot.show(error);
                } else if (current === mine && !quiet) fill(status, t("stopped"));
            } finally {
                if (current === mine) {
                    current = null;
                    node.classList.remove("busy");
                    if (document.activeElement === end) start.focus();
                    end.disabled = true;
                }
            }
        }

        function stop() {
            current?.abort();
        }

        return { node, error: spot, run, stop, busy: () => current !== null, button: start };
    }

    /** Return a bar for a share from 0 to 1 as it is drawn behind or beside a text. hidden from screen readers. */
    function bar(share, attributes = {}) {
        const inner = el("span", { class: "bar-inner" });
        inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
        return el("span", { "aria-hidden": "true", ...attributes, class: `bar ${attributes.class ?? ""}` }, inner);
    }

    /** Return a table of bars: rows `[name, share]` or `[name, share, shown]`. label: of the table. strong: index of a row to stress, or several. */
    function bars(rows, { label, strong = [] } = {}) {
        const lines = rows.map(([name, share, shown = percent(share)], index) =>
            el("tr", { class: [strong].flat().includes(index) ? "strong" : null },
                el("th", { scope: "row" }, name), el("td", { class: "bar-cell" }, bar(share)), el("td", { class: "figure" }, shown)));
        return el("table", { class: "bars", "aria-label": label }, el("tbody", {}, lines));
    }

    /** Return what stands in a panel before anything was run. examples: `{text, use()}`, or `{text, label, use()}`. */
    function empty(sentence, examples = []) {
        const buttons = examples.map((example) =>
            el("li", {}, el("button", { class: "example", type: "button", onclick: example.use }, example.label ?? example.text)));
        return el("div", { class: "empty" }, el("p", {}, sentence),
            buttons.length ? [el("p", { class: "eyebrow" }, t("examples")), el("ul", { class: "examples" }, buttons)] : null);
    }

    /** Return a function that calls another once no call came for some milliseconds. */
    function later(milliseconds, call) {
        let timer = 0;
        return (...values) => {
            clearTimeout(timer);
            timer = setTimeout(() => call(...values), milliseconds);
        };
    }

    /** Draw the inside of an element anew, and give the focus back to the element with the same `data-key`. */
    function refocused(root, draw) {
        const key = root.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
        draw();
        if (key !== undefined) root.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
    }

    /** Let the browser save a text as a file. */
    function download(name, text, type = "text/plain") {
        const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
        el("a", { href: url, download: name }).click();
        setTimeout(() => URL.revokeObjectURL(url), 10_000);
    }

    Object.assign(blankfill, { field, menu, textarea, errorSpot, runner, bar, bars, empty, later, refocused, download });
})();
