/* The frame: head, tabs, the chosen panel, dialogs and shortcuts. */
"use strict";
(() => {
    const { el, fill, t, recall, keep, connection, languageListeners, openCode } = blankfill;
    const THEMES = ["auto", "light", "dark"];

    const opened = new Map(); // id of a panel → {root, controls, request, listeners}
    const toast = el("div", { class: "toast", role: "status", "aria-live": "polite" });
    let current = null; // the chosen panel
    let frame = {};

    // ---- Head --------------------------------------------------------------------------------------------------

    function head() {
        const mark = el("h1", { class: "mark" }, el("a", { class: "wordmark", href: "#", "aria-label": "blankfill" },
            el("span", { "aria-hidden": "true" }, "blank", el("span", { class: "gap" }), "fill")));
        const language = el("button", { class: "quiet", type: "button", lang: blankfill.language === "zh" ? "en" : "zh-CN",
            "aria-label": t("language.label"), onclick: changeLanguage }, t("language"));
        frame.theme = el("button", { class: "quiet icon", type: "button", onclick: nextTheme });
        const key = el("button", { class: "quiet", type: "button", onclick: openKey }, t("key"));
        const list = el("button", { class: "quiet icon", type: "button", "aria-label": t("shortcuts"), title: t("shortcuts"), onclick: openShortcuts },
            el("span", { "aria-hidden": "true" }, "?"));
        const docs = el("a", { class: "quiet", href: "/docs" }, t("docs"));
        showTheme();
        return el("div", { class: "head" }, mark, el("nav", { class: "tools", "aria-label": t("tools") }, docs, key, language, frame.theme, list));
    }

    function changeLanguage() {
        const name = blankfill.language === "zh" ? "en" : "zh";
        keep("language", name);
        blankfill.setLanguage(name);
    }

    const theme = () => recall("theme", "auto");

    function nextTheme() {
        keep("theme", THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
        showTheme();
    }

    function showTheme() {
        const name = THEMES.includes(theme()) ? theme() : "auto";
        if (name === "auto") delete document.documentElement.dataset.theme;
        else document.documentElement.dataset.theme = name;
        if (!frame.theme) return;
        const label = t(`theme.${name}`);
        frame.theme.setAttribute("aria-label", label);
        frame.theme.title = label;
        fill(frame.theme, el("span", { "aria-hidden": "true" }, { auto: "◐", light: "○", dark: "●" }[name]));
    }

    // ---- Tabs --------------------------------------------------------------------------------------------------

    function tabs() {
        frame.tabs = blankfill.panels.map((panel) => el("button", {
            role: "tab", type: "button", id: `tab-${panel.id}`, "aria-controls": `panel-${panel.id}`,
            onclick: () => go(panel.id), onkeydown: arrow,
        }, t(panel.title)));
        return el("div", { class: "tabs", role: "tablist", "aria-label": t("tabs") }, frame.tabs);
    }

    function arrow(event) {
        const at = frame.tabs.indexOf(event.currentTarget);
        const last = frame.tabs.length - 1;
        const to = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        frame.tabs[to].focus();
        go(blankfill.panels[to].id);
    }

    const modelsFor = (panel) => connection.state.models.filter((model) => panel.abilities.some((name) => model.abilities.includes(name)));

    function go(id) {
        if (location.hash !== `#/${id}`) history.pushState(null, "", `#/${id}`);
        route();
    }

    /** Show the panel of the address. */
    function route() {
        const id = location.hash.replace(/^#\/?/, "").split(/[/?]/)[0];
        const possible = blankfill.panels.find((panel) => modelsFor(panel).length > 0);
        const chosen = blankfill.panels.find((panel) => panel.id === id) ?? possible ?? blankfill.panels[0];
        if (!chosen) return;
        current = chosen;
        blankfill.panels.forEach((panel, index) => {
            const on = panel === chosen;
            frame.tabs[index].setAttribute("aria-selected", String(on));
            frame.tabs[index].tabIndex = on ? 0 : -1;
            frame.bodies[index].hidden = !on;
        });
        const tab = frame.tabs[blankfill.panels.indexOf(chosen)];
        tab.scrollIntoView({ block: "nearest", inline: "nearest" });
        document.title = `${t(chosen.title)} · blankfill`;
        open(chosen);
    }

    // ---- Panels ------------------------------------------------------------------------------------------------

    /** Draw a panel when it is first visited, and again when a model for it has come or gone. */
    function open(panel) {
        const root = frame.bodies[blankfill.panels.indexOf(panel)];
        const usable = modelsFor(panel).length > 0;
        const known = opened.get(panel.id);
        if (known && known.usable === usable && known.root === root) return;
        const entry = { root, usable, request: known?.request ?? null, listeners: new Set(), pickers: new Set(), controls: {} };
        opened.set(panel.id, entry);
        fill(root);
        if (usable) entry.controls = panel.render(root, contextOf(panel, entry)) ?? {};
        else if (connection.state.phase === "up") {
            fill(root, el("div", { class: "empty" }, el("h2", {}, t("models.none")), el("p", {}, t("models.none.how"))));
        }
    }

    /** Return what a panel may use of the frame; see `panel` in core.js. */
    function contextOf(panel, entry) {
        const models = () => modelsFor(panel);
        const model = () => models().find((one) => one.id === recall(`model.${panel.id}`)) ?? models()[0] ?? null;
        const showCode = (request, { open: now = false } = {}) => {
            entry.request = request;
            if (now) openCode(request, notify);
        };
        const modelPicker = () => {
            const select = el("select", { id: blankfill.uid("model"), onchange: () => {
                keep(`model.${panel.id}`, select.value);
                entry.listeners.forEach((listener) => listener(model()));
            } });
            const name = el("span", { class: "model-name" });
            const draw = () => {
                fill(select, models().map((one) => el("option", { value: one.id }, one.id)));
                select.value = model()?.id ?? "";
                const alone = models().length < 2;
                select.hidden = alone;
                fill(name, alone ? model()?.id : null);
            };
            entry.pickers.add(draw);
            draw();
            return el("div", { class: "field inline model" }, el("label", { for: select.id }, t("model")), select, name);
        };
        const codeButton = () => el("button", { class: "quiet", type: "button", onclick: () => openCode(entry.request, notify) }, t("code"));
        return { models, model, onModelChange: (listener) => entry.listeners.add(listener), notify, showCode, lastRequest: () => entry.request, modelPicker, codeButton };
    }

    /** Say something briefly, at the foot of the page and to screen readers. */
    function notify(sentence) {
        fill(toast, sentence);
        toast.classList.add("shown");
        clearTimeout(notify.timer);
        notify.timer = setTimeout(() => toast.classList.remove("shown"), 3500);
    }

    // ---- Dialogs and keys --------------------------------------------------------------------------------------

    function dialog(title, ...content) {
        const node = el("dialog", { class: "box", "aria-labelledby": "dialog-title" });
        const close = el("button", { class: "quiet", type: "button", onclick: () => node.close() }, t("close"));
        fill(node, el("div", { class: "drawer-head" }, el("h2", { id: "dialog-title" }, title), close), content);
        node.addEventListener("close", () => node.remove());
        node.addEventListener("click", (event) => event.target === node && node.close());
        document.body.append(node);
        node.showModal();
        return node;
    }

    function openKey() {
        const input = el("input", { type: "password", autocomplete: "off", value: blankfill.key });
        const box = dialog(t("key"), el("form", { onsubmit: (event) => {
            event.preventDefault();
            blankfill.setKey(input.value);
            box.close();
            connection.look();
        } }, blankfill.field(t("key"), input, t("key.hint")), el("button", { class: "primary", type: "submit" }, t("key.save"))));
        input.focus();
    }

    function openShortcuts() {
        const rows = [["Ctrl + Enter", "shortcuts.run"], ["Esc", "shortcuts.stop"], ["← →", "shortcuts.tabs"], ["Alt + 1 … 9", "shortcuts.go"], ["?", "shortcuts.list"]];
        dialog(t("shortcuts"), el("table", { class: "keys" }, el("tbody", {}, rows.map(([keys, key]) =>
            el("tr", {}, el("th", { scope: "row" }, el("kbd", {}, keys)), el("td", {}, t(key)))))));
    }

    const types = (target) => target.matches?.("input:not([type=checkbox], [type=radio], [type=range]), textarea, select, [contenteditable]");

    document.addEventListener("keydown", (event) => {
        if (event.defaultPrevented || document.querySelector("dialog[open]") || event.isComposing) return;
        const controls = opened.get(current?.id)?.controls ?? {};
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            controls.run?.();
        } else if (event.key === "Escape") controls.stop?.();
        else if (event.key === "?" && !types(event.target)) openShortcuts();
        else if (event.altKey && /^[1-9]$/.test(event.key) && blankfill.panels[event.key - 1]) {
            event.preventDefault();
            go(blankfill.panels[event.key - 1].id);
            frame.tabs[event.key - 1].focus();
        }
    });

    // ---- The whole ---------------------------------------------------------------------------------------------

    /** Draw the page; again when the language changes. */
    function draw() {
        for (const entry of opened.values()) entry.controls.stop?.();
        opened.clear();
        frame = {};
        const top = head();
        const strip = tabs();
        frame.bodies = blankfill.panels.map((panel) => el("section", { class: "panel", role: "tabpanel", id: `panel-${panel.id}`,
            "aria-labelledby": `tab-${panel.id}`, hidden: true }));
        const skip = el("a", { class: "skip", href: "#content", onclick: (event) => {
            event.preventDefault();
            frame.main.focus();
        } }, t("skip"));
        frame.main = el("main", { id: "content", tabindex: "-1" }, frame.bodies);
        fill(document.getElementById("app"), skip, el("header", {}, top, strip, connection.banner), frame.main, toast);
        connection.draw();
        if (connection.state.phase !== "start") route();
    }

    /** Show the models of the server after they came or changed. */
    function modelsChanged() {
        for (const entry of opened.values()) entry.pickers.forEach((drawPicker) => drawPicker());
        route();
        const entry = opened.get(current?.id);
        entry?.listeners.forEach((listener) => listener(contextOf(current, entry).model()));
    }

    /** Start the page. */
    function start() {
        languageListeners.add(draw);
        connection.listeners.add(modelsChanged);
        addEventListener("hashchange", route);
        addEventListener("popstate", route);
        showTheme();
        blankfill.setLanguage(recall("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"));
        connection.look();
    }

    Object.assign(blankfill, { start, go, notify, openKey });
})();
