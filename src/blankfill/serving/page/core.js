/* What every script of the page shares: elements, texts in two languages, requests, saved inputs and the list of panels.
 *
 * A panel is a file of its own:
 *
 *     (() => {
 *         const { el, t, texts, panel, saved, runner } = blankfill;
 *         texts({ en: { "echo.title": "Echo" }, zh: { "echo.title": "回声" } });
 *         const input = saved("echo", { text: "" });          // kept in the browser
 *         panel({
 *             id: "echo", order: 90, title: "echo.title", abilities: ["tokenize"],
 *             render(root, context) { ... return { run, stop }; },
 *         });
 *     })();
 *
 * Rules: data reaches the document only as text (`el`), never as HTML; styles are classes or `element.style.width = ...`
 * (the policy of the page forbids the attribute); every text stands in both languages, one on a line, its key in quotes.
 *
 * Not here: widgets (`parts.js`), the frame around the panels (`shell.js`), the code for a request (`code.js`).
 */
"use strict";
globalThis.blankfill = (() => {
    const SVG = "http://www.w3.org/2000/svg";

    // ---- Elements ----------------------------------------------------------------------------------------------

    /**
     * Make an element.
     * @param {string} tag such as "button"
     * @param {object} [attributes] `onclick: f` listens; `class`, `dataset: {}` and `style: {width: "4px"}` are set as
     *     such; `value`, `checked`, `selected`, `open`, `indeterminate` are properties; null, undefined and false leave an
     *     attribute out, true sets it without a value.
     * @param {...(Node|string|number|null|Array)} children texts are added as text, null and false are left out
     * @returns {HTMLElement}
     */
    function el(tag, attributes = {}, ...children) {
        return filled(document.createElement(tag), attributes, children);
    }

    /** Make an element of SVG; as `el`. */
    function svg(tag, attributes = {}, ...children) {
        return filled(document.createElementNS(SVG, tag), attributes, children);
    }

    const PROPERTIES = new Set(["value", "checked", "selected", "open", "indeterminate"]);

    function filled(node, attributes, children) {
        const late = [];
        for (const [name, value] of Object.entries(attributes ?? {})) {
            if (value === null || value === undefined || value === false) continue;
            if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
            else if (name === "dataset") Object.assign(node.dataset, value);
            else if (name === "style") Object.assign(node.style, value);
            else if (PROPERTIES.has(name)) late.push([name, value]);
            else node.setAttribute(name, value === true ? "" : String(value));
        }
        node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
        for (const [name, value] of late) node[name] = value; // the value of a select needs its options
        return node;
    }

    /** Replace the children of an element. */
    function fill(node, ...children) {
        node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
        return node;
    }

    let ids = 0;
    /** Return an id that no other element has. */
    const uid = (prefix = "id") => `${prefix}-${++ids}`;

    // ---- Texts -------------------------------------------------------------------------------------------------

    const TEXTS = { en: {}, zh: {} };
    const languageListeners = new Set();
    let language = "en";

    /** Register texts: `{en: {key: text}, zh: {key: text}}`; both languages must have the same keys. */
    function texts(more) {
        for (const [name, entries] of Object.entries(more)) Object.assign(TEXTS[name], entries);
    }

    /**
     * Return a text in the language of the page. `{name}` stands for a value, written as numbers are in the language;
     * `{name:token|tokens}` for one of two words, the first where the value is 1.
     */
    function t(key, values = {}) {
        const text = TEXTS[language][key] ?? TEXTS.en[key] ?? key;
        return text.replace(/\{(\w+)(?::([^|}]*)\|([^}]*))?\}/g, (whole, name, one, many) => {
            const value = values[name];
            if (one !== undefined) return value === 1 ? one : many;
            if (value === undefined) return whole;
            return typeof value === "number" ? number(value) : String(value);
        });
    }

    /** Write a number in the language of the page. options: those of Intl.NumberFormat. */
    function number(value, options = {}) {
        return new Intl.NumberFormat(language === "zh" ? "zh-CN" : "en", { maximumFractionDigits: 4, ...options }).format(value);
    }

    /** Write a probability as a percentage with about two digits that count: 97%, 4.2%, 0.03%. */
    function percent(share) {
        const size = Math.abs(share) * 100;
        const digits = size >= 9.95 ? 0 : size >= 0.095 ? 1 : size >= 0.0095 ? 2 : 3;
        if (size > 0 && size < 0.0005) return "<0.001%";
        return number(share, { style: "percent", minimumFractionDigits: digits && size < 99.95 ? digits : 0, maximumFractionDigits: digits });
    }

    /** Choose the language, and draw the page again. */
    function setLanguage(name) {
        language = name in TEXTS ? name : "en";
        document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
        languageListeners.forEach((listener) => listener(language));
    }

    // ---- What is kept in the browser -----------------------------------------------------------------------------

    /** Read a value from a storage; the fallback where there is none or the browser forbids it. */
    function recall(key, fallback = null, storage = "localStorage") {
        try {
            const text = globalThis[storage].getItem(`blankfill.${key}`);
            return text === null ? fallback : JSON.parse(text);
        } catch {
            return fallback;
        }
    }

    /** Keep a value in a storage; null removes it. Returns false where the browser has no room or forbids it. */
    function keep(key, value, storage = "localStorage") {
        try {
            if (value === null) globalThis[storage].removeItem(`blankfill.${key}`);
            else globalThis[storage].setItem(`blankfill.${key}`, JSON.stringify(value));
            return true;
        } catch {
            return false;
        }
    }

    /**
     * Return an object whose fields are kept in the browser whenever one is set: `input.text = "..."`. A field whose
     * kept value has another type than the default takes the default. Nested values must be replaced, not changed.
     */
    function saved(key, defaults) {
        const kept = recall(key, {});
        const values = structuredClone(defaults);
        for (const name of Object.keys(defaults)) {
            const value = kept?.[name];
            const fits = defaults[name] === null || (typeof value === typeof defaults[name] && value !== null
                && Array.isArray(value) === Array.isArray(defaults[name]));
            if (value !== undefined && fits) values[name] = value;
        }
        return new Proxy(values, {
            set(target, name, value) {
                target[name] = value;
                keep(key, target);
                return true;
            },
        });
    }

    // ---- Requests ----------------------------------------------------------------------------------------------

    /** A request that failed. message: the server's sentence. status: of HTTP; 0 where the server cannot be reached. */
    class ApiFailure extends Error {
        constructor(message, status, { code = null, param = null, retryAfter = null } = {}) {
            super(message);
            Object.assign(this, { name: "ApiFailure", status, code, param, retryAfter });
        }
    }

    const failureListeners = new Set();
    let apiKey = recall("key", "", "sessionStorage");

    /** Set the API key; it is kept until the tab is closed. */
    function setKey(key) {
        apiKey = key.trim();
        keep("key", apiKey || null, "sessionStorage");
    }

    async function request(path, body, { signal, method } = {}) {
        const headers = body === undefined ? {} : { "Content-Type": "application/json" };
        if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
        const options = { method: method ?? (body === undefined ? "GET" : "POST"), headers, signal, cache: "no-store" };
        if (body !== undefined) options.body = JSON.stringify(body);
        let response;
        try {
            response = await fetch(path, options);
        } catch (error) {
            throw failed(error);
        }
        if (!response.ok) throw failed(await failureOf(response));
        return response;
    }

    /** Return the error of a response. */
    async function failureOf(response) {
        let error = {};
        try {
            error = (await response.json()).error ?? {};
        } catch { /* an answer of a proxy, not of the server */ }
        const retryAfter = Number(response.headers.get("Retry-After")) || null;
        const message = error.message ?? t("error.status", { status: response.status });
        return new ApiFailure(message, response.status, { code: error.code, param: error.param, retryAfter });
    }

    /** Return the error of a request as the page shows it, and let the frame know of it. */
    function failed(error) {
        if (error.name === "AbortError") return error;
        const failure = error instanceof ApiFailure ? error : new ApiFailure(t("error.gone"), 0);
        failureListeners.forEach((listener) => listener(failure));
        return failure;
    }

    /**
     * Send a request and return the JSON of the answer; without a body, GET.
     * Throws ApiFailure with the server's sentence, or AbortError once the signal is aborted.
     */
    async function api(path, body, options = {}) {
        const response = await request(path, body, options);
        try {
            return await response.json();
        } catch (error) {
            throw failed(error);
        }
    }

    /**
     * Send a request whose answer comes in pieces (server-sent events); onEvent gets the JSON of each. Returns after
     * the last one. Throws as `api` does, and also for an error among the pieces or an answer that breaks off.
     */
    async function stream(path, body, onEvent, options = {}) {
        const response = await request(path, body, options);
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        let ended = false;
        try {
            for (;;) {
                const { value, done } = await reader.read();
                if (done) break;
                const events = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
                rest = events.pop();
                for (const event of events) {
                    const data = event.split("\n").filter((line) => line.startsWith("data:"))
                        .map((line) => line.slice(5).trimStart()).join("\n");
                    if (data === "[DONE]") ended = true;
                    else if (data) onEvent(checked(JSON.parse(data)));
                }
            }
        } catch (error) {
            reader.cancel().catch(() => {});
            throw failed(error);
        }
        if (!ended) throw failed(new ApiFailure(t("error.broken"), 0));
    }

    function checked(event) {
        if (event.error) throw new ApiFailure(event.error.message, event.error.status ?? 500, event.error);
        return event;
    }

    // ---- Panels ------------------------------------------------------------------------------------------------

    const panels = [];

    /**
     * Register a panel.
     *
     * id: its place in addresses, `#/id`. order: its place among the tabs. title: key of its name. abilities: those of
     * which a model of the panel has at least one. render(root, context): draw into an empty element; called on the
     * first visit, and again when the language changes, so what must last is kept outside; it returns `{run, stop}`
     * for Ctrl+Enter and Escape, each of which may be left out.
     *
     * context: `model()` the chosen model as /v1/models describes it, or null; `models()` those that have the abilities;
     * `onModelChange(f)`; `notify(sentence)` says something briefly; `showCode({path, body})` gives the request whose
     * code the drawer shows, `showCode(request, {open: true})` also opens it; `lastRequest()` that request, or null; `modelPicker()` a field to choose the
     * model; `codeButton()` a button for the drawer.
     */
    function panel(description) {
        panels.push(description);
        panels.sort((a, b) => a.order - b.order);
    }

    return {
        el, svg, fill, uid, texts, t, number, percent, setLanguage, languageListeners, TEXTS,
        recall, keep, saved, ApiFailure, failureListeners, setKey, api, stream, panel, panels,
        get language() { return language; },
        get key() { return apiKey; },
    };
})();
