/* How predictions are drawn: bars for classes, the effect of each word, entities and answers marked in their text. */
"use strict";
(() => {
    const { el, fill, t, texts, number, percent, bars, uid } = blankfill;
    const HUES = 8; // colours of types in style.css, `hue-0` and so on

    /**
     * Return the parts of a text between ranges, in order: `{text, mark}`, where mark is one of the ranges or null.
     * ranges: `{start, end}` in Unicode characters, as the server counts; those that overlap an earlier one are left out.
     */
    function marked(text, ranges) {
        const characters = Array.from(text);
        const parts = [];
        let last = 0;
        for (const range of [...ranges].sort((a, b) => a.start - b.start || b.end - a.end)) {
            if (range.start < last || range.end > characters.length) continue;
            if (range.start > last) parts.push({ text: characters.slice(last, range.start).join(""), mark: null });
            parts.push({ text: characters.slice(range.start, range.end).join(""), mark: range });
            last = range.end;
        }
        if (last < characters.length) parts.push({ text: characters.slice(last).join(""), mark: null });
        return parts;
    }

    /** Return what a model predicted, as elements. prediction: `{task, values, row}`. */
    function predictions({ task, values, row }) {
        const draw = { tag: tagged, answer: answered }[task.kind] ?? classified;
        return el("div", { class: "stack" }, draw(row, values, task), row.truncated ? el("p", { class: "hint" }, t("predicted.cut")) : null);
    }

    // ---- Classes and numbers ---------------------------------------------------------------------------------------

    function classified(row, values, task) {
        const shares = Object.entries(row.probabilities ?? {});
        const several = Array.isArray(row.labels);
        const chosen = new Set(several ? row.labels : [String(row.label)]);
        const choices = task.kind === "choice" ? values.choices : null;
        const named = shares.map(([name, share]) => [choices?.[Number(name)] ?? name, share, name]);
        if (!choices) named.sort((a, b) => b[1] - a[1]);
        const head = several ? row.labels.join(", ") || t("predicted.no-label") : row.choice ?? row.label ?? (typeof row.score === "number" ? number(row.score) : row.score);
        return [
            el("p", { class: "verdict prose" }, head,
                !several && shares.length ? el("span", { class: "verdict-figure" }, percent(row.probabilities[row.label])) : null),
            shares.length ? bars(named.map(([name, share]) => [name, share]), { label: t("predicted.shares"), strong: named.flatMap(([, , name], index) => (chosen.has(name) ? [index] : [])) }) : null,
            several ? el("p", { class: "hint" }, t("predicted.threshold")) : null,
            row.contributions?.length ? effects(row, values, shares.length ? row : null) : null,
        ];
    }

    // ---- What each word contributed --------------------------------------------------------------------------------

    /** Return the words of the texts, coloured by their effect, and the same as a table. */
    function effects(row, values, shares) {
        const label = shares ? likeliest(row.probabilities) : "";
        const strongest = Math.max(...row.contributions.map((word) => Math.abs(word.change)), 1e-9);
        const shown = (change) => signed(change, Boolean(shares));
        const note = el("p", { class: "effect-note", "aria-hidden": "true" }, t("predicted.point"));
        const lines = grouped(row.contributions);
        const tell = (word) => fill(note, el("strong", {}, word.text), ` ${shown(word.change)}`);
        const blocks = [...lines].map(([name, words]) => line(textOf(name, values, words), strongest, shown, tell));
        const table = el("table", { class: "plain" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, t("predicted.word")), el("th", { scope: "col", class: "figure" }, t("predicted.effect")))),
            el("tbody", {}, [...row.contributions].sort((a, b) => b.change - a.change).map((word) =>
                el("tr", {}, el("th", { scope: "row" }, word.text), el("td", { class: "figure" }, shown(word.change))))));
        return el("section", { class: "stack" }, el("h2", {}, t("predicted.contributions")),
            el("p", { class: "hint" }, label ? t("predicted.contributions.hint", { label }) : t("predicted.contributions.score")),
            blocks, el("p", { class: "legend" }, el("span", { class: "key for" }, t("predicted.for")), el("span", { class: "key against" }, t("predicted.against"))), note,
            el("details", {}, el("summary", {}, t("predicted.table")), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("predicted.contributions") }, table)));
    }

    const likeliest = (probabilities) => Object.entries(probabilities).reduce((best, one) => (one[1] > best[1] ? one : best))[0];

    /** Group words by the field that they are from. */
    function grouped(words) {
        const lines = new Map();
        for (const word of words) lines.set(word.field ?? "text", [...(lines.get(word.field ?? "text") ?? []), word]);
        return lines;
    }

    /** Return the text that words are from; the words alone where the request has no such text. */
    function textOf(name, values, words) {
        const text = values[name] ?? "";
        const fits = words.every((word) => Array.from(text).slice(word.start, word.end).join("") === word.text);
        if (fits) return { text, words };
        let place = 0;
        const placed = words.map((word) => {
            const start = place;
            place += Array.from(word.text).length + 1;
            return { ...word, start, end: place - 1 };
        });
        return { text: words.map((word) => word.text).join(" "), words: placed };
    }

    /** Return one text, its words as buttons that tell their effect; the arrow keys go from word to word. */
    function line({ text, words }, strongest, shown, tell) {
        const node = el("div", { class: "effects prose", role: "group", "aria-label": t("predicted.contributions") });
        const buttons = [];
        fill(node, marked(text, words).map((part) => {
            if (!part.mark) return part.text;
            const strength = part.mark.change / strongest;
            const button = el("button", { type: "button", class: `word effect ${strength < 0 ? "against" : "for"}`, tabindex: buttons.length ? "-1" : "0",
                "aria-label": `${part.text} ${shown(part.mark.change)}`, title: shown(part.mark.change),
                onfocus: () => tell(part.mark), onpointerenter: () => tell(part.mark), onclick: () => tell(part.mark) }, part.text);
            button.style.setProperty("--strength", Math.abs(strength).toFixed(3));
            buttons.push(button);
            return button;
        }));
        node.addEventListener("keydown", (event) => {
            const at = buttons.indexOf(document.activeElement);
            const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
            if (at < 0 || to === undefined || !buttons[to]) return;
            event.preventDefault();
            buttons[at].tabIndex = -1;
            buttons[to].tabIndex = 0;
            buttons[to].focus();
        });
        return node;
    }

    /** Write an effect: in percentage points, or as a number where the model predicts one. */
    function signed(change, points) {
        const text = number(points ? change * 100 : change, { signDisplay: "exceptZero", maximumFractionDigits: points ? 1 : 3 });
        return points ? t("predicted.points", { change: text }) : text;
    }

    // ---- Entities and tags -----------------------------------------------------------------------------------------

    function tagged(row, values) {
        const text = values.text;
        const entities = row.entities ?? null;
        const found = (entities ?? (row.words ?? []).filter((word) => word.tag !== "O").map((word) => ({ ...word, type: word.tag })));
        const placed = found.filter((one) => Number.isInteger(one.start));
        const types = [...new Set(found.map((one) => one.type))].sort();
        const hue = (type) => `hue-${types.indexOf(type) % HUES}`;
        const count = (type) => found.filter((one) => one.type === type).length;
        return [
            el("p", { class: "sr-only" }, t("predicted.entities", { count: found.length })),
            found.length ? el("ul", { class: "legend" }, types.map((type) => el("li", { class: `key ${hue(type)}` }, type, el("span", { class: "key-count" }, count(type))))) : el("p", {}, t("predicted.no-entity")),
            el("p", { class: "prose marked card" }, marked(text, placed).map((part) => (part.mark
                ? el("mark", { class: `entity ${hue(part.mark.type)}` }, part.text, " ", el("span", { class: "entity-type" }, part.mark.type)) : part.text))),
        ];
    }

    // ---- Answers ---------------------------------------------------------------------------------------------------

    function answered(row, values) {
        const best = (row.best ?? []).filter((one) => one.text);
        const context = el("p", { class: "prose marked card" });
        const mine = Number.isInteger(row.start) ? row : best.find((one) => one.text === row.answer) ?? null;
        const head = el("p", { class: "verdict prose" }, row.answer || t("predicted.no-answer"));
        const buttons = best.map((one) => el("button", { type: "button", class: "choice", onclick: () => mark(one) }, one.text, el("span", { class: "chip-figure" }, ` ${number(one.score, { maximumFractionDigits: 2 })}`)));
        const mark = (one) => {
            const ranges = one && Number.isInteger(one.start) ? [one] : [];
            fill(context, marked(values.context, ranges).map((part) => (part.mark ? el("mark", { class: "answer" }, part.text) : part.text)));
            buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(one !== null && best[index].start === one.start && best[index].end === one.end)));
        };
        mark(row.answer ? mine : null);
        const title = uid("alternatives");
        return [head, context, buttons.length ? el("section", { class: "stack tight", "aria-labelledby": title }, el("h2", { id: title }, t("predicted.alternatives")),
            el("p", { class: "hint" }, t("predicted.alternatives.hint")), el("div", { class: "choices" }, buttons)) : null];
    }

    texts({
        en: {
            "predicted.cut": "The text was too long; its end was left out.",
            "predicted.no-label": "No label",
            "predicted.shares": "Probabilities",
            "predicted.threshold": "A label is chosen from 50%.",
            "predicted.contributions": "What each word contributed",
            "predicted.contributions.hint": "How much the probability of “{label}” falls when the word is left out.",
            "predicted.contributions.score": "How much the number falls when the word is left out.",
            "predicted.for": "speaks for it",
            "predicted.against": "speaks against it",
            "predicted.point": "Point at a word for its figure.",
            "predicted.points": "{change} points",
            "predicted.table": "As a table",
            "predicted.word": "Word",
            "predicted.effect": "Contribution",
            "predicted.entities": "{count} {count:entity|entities} found.",
            "predicted.no-entity": "The model finds no entity in this text.",
            "predicted.no-answer": "The text does not answer this.",
            "predicted.alternatives": "Candidates",
            "predicted.alternatives.hint": "The likeliest first; choose one to see it in the text.",
        },
        zh: {
            "predicted.cut": "文本过长，结尾已略去。",
            "predicted.no-label": "没有标签",
            "predicted.shares": "概率",
            "predicted.threshold": "达到 50% 的标签会被选中。",
            "predicted.contributions": "每个词的作用",
            "predicted.contributions.hint": "去掉这个词时，“{label}”的概率下降多少。",
            "predicted.contributions.score": "去掉这个词时，数值下降多少。",
            "predicted.for": "支持",
            "predicted.against": "反对",
            "predicted.point": "指向一个词，查看它的数值。",
            "predicted.points": "{change} 个百分点",
            "predicted.table": "以表格显示",
            "predicted.word": "词",
            "predicted.effect": "作用",
            "predicted.entities": "找到 {count} 个实体。",
            "predicted.no-entity": "模型在这段文本中没有找到实体。",
            "predicted.no-answer": "文本没有回答这个问题。",
            "predicted.alternatives": "候选答案",
            "predicted.alternatives.hint": "最可能的在前；选择一个，在文本中查看。",
        },
    });

    Object.assign(blankfill, { marked, predictions });
})();
