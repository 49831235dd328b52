/* The Fill panel: blank words of a text by clicking on them, see what the model would put there, choose one, and let it
 * fill the others again; two models side by side. */
"use strict";
(() => {
    const { el, fill, t, texts, panel, saved, api, runner, textarea, empty, later, percent, bar, menu, field, blanked, refocused } = blankfill;
    const MOST_PIECES = 3000; // of a text that can be clicked
    const LONGEST_BLANK = 12; // tokens that the buttons count up to

    const FREE = new Set(["glm", "chatglm", "glm-130b", "t5", "bart"]); // objectives that choose the length of a blank
    const WORD = new Set(["gpt"]); // those that write a word into it

    const input = saved("fill", { text: "", blanks: [], top: 5, lengths: "", penalty: "", unknown: false, compare: false, second: "" });
    const results = new Map(); // model → Map(blank id → {candidates, shares})
    const failures = new Map(); // model → sentence

    panel({ id: "fill", order: 10, title: "fill.title", abilities: ["fill"], render });

    function render(root, context) {
        const run = runner(work, { label: t("fill.run") });
        const draft = textarea(input.text, typed, { class: "prose", rows: 1, placeholder: t("fill.placeholder"), "aria-label": t("fill.text") });
        const sheet = blankfill.sheet({ toggle, lengthen, describe });
        const start = empty(t("fill.empty"), t("fill.examples").split("|").map((marked) => {
            const { text } = blanked.example(marked);
            return { text, use: () => useExample(marked) };
        }));
        const columns = el("div", { class: "fill-columns" });
        const long = el("p", { class: "hint", hidden: true }, t("fill.long"));
        let computing = false;
        const soon = later(350, () => hasOpen() && run.run());
        const second = menu([], input.second, (name) => { input.second = name; show(); soon(); }, { "aria-label": t("fill.second") });
        const compare = el("label", { class: "check" }, el("input", { type: "checkbox", checked: input.compare, onchange: (event) => {
            input.compare = event.target.checked;
            models();
            show();
            soon();
        } }), t("fill.compare"));
        const clear = el("button", { type: "button", class: "quiet end", onclick: () => {
            input.blanks = input.blanks.filter((blank) => blank.typed).map((blank) => ({ ...blank, fixed: null }));
            results.clear();
            show();
        } }, t("fill.clear"));

        run.node.append(clear);
        fill(root,
            el("div", { class: "toolbar" }, context.modelPicker(), compare, second, el("span", { class: "end" }, context.codeButton(), blankfill.insideButton(context.lastRequest))),
            el("div", { class: "stack" }, draft, sheet.node, long, run.node, start, columns, settings()));

        // ---- Inputs

        function typed(text) {
            input.blanks = blanked.followed(input.blanks, input.text, text);
            input.text = text;
            run.error.clear();
            showSoon();
        }

        function useExample(marked) {
            const { text, blanks } = blanked.example(marked);
            input.text = text;
            input.blanks = blanks;
            draft.setValue(text);
            show();
            run.run();
        }

        /** Blank a range of the text, or restore it. Several words are as many tokens, if the model does not choose the number. */
        function toggle(from, to) {
            const words = blanked.pieces(input.text.slice(from, to)).filter((piece) => !piece.space).length;
            const length = words > 1 && !FREE.has(context.model()?.objective) ? Math.min(words, LONGEST_BLANK) : null;
            input.blanks = blanked.toggled(input.blanks, from, to, length);
            show();
            soon();
        }

        /** Change the number of tokens of a blank by one; the least is what the model does without a number. */
        function lengthen(blank, step) {
            const least = FREE.has(context.model()?.objective) || WORD.has(context.model()?.objective) ? 0 : 1;
            const length = Math.max(least, Math.min(LONGEST_BLANK, (blank.length ?? least) + step));
            change(blank, { length: length > least ? length : null, fixed: null });
        }

        /** Choose a text for a blank, or take the choice back; the others are filled again. */
        function choose(blank, text) {
            change(blank, { fixed: blank.fixed === text ? null : text });
        }

        function change(blank, changes) {
            input.blanks = input.blanks.map((one) => (one.id === blank.id ? { ...one, ...changes } : one));
            show();
            soon();
        }

        function settings() {
            const number = (value, set, attributes) => el("input", { ...attributes, value, oninput: (event) => { set(event.target.value); soon(); } });
            const top = number(input.top, (value) => { input.top = Math.round(Number(value)) || 5; }, { type: "number", min: 1, max: 50 });
            const lengths = number(input.lengths, (value) => { input.lengths = value; }, { type: "text", placeholder: "1-3", inputmode: "numeric" });
            const penalty = number(input.penalty, (value) => { input.penalty = value; }, { type: "number", min: 0, max: 10, step: 0.1, placeholder: "0" });
            const unknown = el("label", { class: "check" }, el("input", { type: "checkbox", checked: input.unknown, onchange: (event) => {
                input.unknown = event.target.checked;
                soon();
            } }), t("fill.unknown"));
            return el("details", { class: "settings" }, el("summary", {}, t("fill.settings")), el("div", { class: "grid" },
                field(t("fill.top"), top), field(t("fill.lengths"), lengths, t("fill.lengths.hint")), field(t("fill.penalty"), penalty, t("fill.penalty.hint")), unknown));
        }

        // ---- Requests

        const chosen = () => {
            const first = context.model()?.id;
            return input.compare && input.second && input.second !== first ? [first, input.second] : [first];
        };

        const hasOpen = () => input.blanks.some((blank) => blank.fixed === null);

        function bodyFor(model, text) {
            const body = { model, input: text, top_k: input.top };
            if (input.lengths.trim()) body.lengths = input.lengths.trim();
            if (Number(input.penalty)) body.length_penalty = Number(input.penalty);
            if (input.unknown) body.allow_unknown = true;
            return body;
        }

        async function work(signal) {
            if (!input.text.trim()) throw new Error(t("fill.no-text"));
            if (!input.blanks.length) throw new Error(t("fill.no-blank"));
            const { text, open } = blanked.written(input.text, input.blanks);
            if (!open.length) return;
            const names = chosen();
            context.showCode({ path: "/v1/fill", body: bodyFor(names[0], text) });
            computing = true;
            show();
            const answers = await Promise.allSettled(names.map((name) => api("/v1/fill", bodyFor(name, text), { signal })));
            if (signal.aborted && run.busy()) throw signal.reason; // a later run shows what it finds
            computing = false;
            if (!signal.aborted) names.forEach((name, index) => take(name, answers[index], open));
            show();
            if (signal.aborted) throw signal.reason;
            if (names.length === 1 && failures.has(names[0])) throw answers[0].reason;
            return blanked.parts(input.text, input.blanks).map((part) => (part.blank ? best(names[0], part.blank)?.trim() ?? "____" : part.text)).join("");
        }

        /** Keep the answer of a model. */
        function take(name, answer, open) {
            failures.delete(name);
            if (answer.status === "rejected") {
                failures.set(name, answer.reason.message);
                return;
            }
            const { blanks, probabilities } = answer.value.data[0];
            const known = results.get(name) ?? new Map();
            open.forEach((blank, index) => known.set(blank.id, { candidates: blanks[index].candidates, shares: probabilities === "candidates" }));
            results.set(name, known);
        }

        // ---- What is shown

        /** Show the models to compare with. */
        function models() {
            const others = context.models().filter((model) => model.id !== context.model()?.id).map((model) => model.id);
            compare.hidden = others.length === 0;
            fill(second, others.map((name) => el("option", { value: name }, name)));
            if (!others.includes(input.second)) input.second = others[0] ?? "";
            second.value = input.second;
            second.hidden = !input.compare || others.length === 0;
        }

        const showSoon = later(120, show);

        function show() {
            const names = chosen();
            const some = input.text.trim().length > 0;
            start.hidden = some;
            clear.hidden = !input.blanks.length;
            columns.classList.toggle("stale", computing);
            const parts = some ? blanked.parts(input.text, input.blanks) : [];
            long.hidden = parts.length <= MOST_PIECES;
            sheet.show(parts.slice(0, MOST_PIECES), names.length === 1 ? (blank) => best(names[0], blank) : () => null);
            refocused(columns, () => fill(columns, input.blanks.length && some ? names.map((name) => column(name, names.length > 1)) : null));
        }

        /** Return the text that stands in a blank: the chosen one, or the likeliest of a model. */
        function best(name, blank) {
            if (blank.fixed !== null) return blank.fixed;
            return results.get(name)?.get(blank.id)?.candidates[0]?.text ?? null;
        }

        function describe(blank) {
            return input.text.slice(blank.start, blank.end);
        }

        /** Return the candidates of a model for each blank. */
        function column(name, several) {
            const failure = several && failures.get(name);
            const head = several && [el("h2", {}, name), el("p", { class: "prose filled" }, filledText(name))];
            return el("section", { class: several ? "card stack" : "stack", "aria-label": name }, head,
                failure && el("p", { class: "error", role: "alert" }, failure),
                input.blanks.map((blank, index) => block(name, blank, index, several ? "h3" : "h2")));
        }

        /** Return the text with the fills of a model, each marked. */
        function filledText(name) {
            return blanked.parts(input.text, input.blanks).map((part) => {
                if (!part.blank) return part.text;
                const text = best(name, part.blank);
                return el("mark", { class: part.blank.fixed === null ? "guess" : "guess fixed" }, text === null ? "____" : text.trim() || "∅");
            });
        }

        /** Return the candidates of one blank. heading: its tag. */
        function block(name, blank, index, heading) {
            const before = blank.typed ? null : input.text.slice(blank.start, blank.end);
            const known = results.get(name)?.get(blank.id);
            const head = el("div", { class: "blank-head" },
                el(heading, {}, el("span", { class: "blank-number", "aria-hidden": "true" }, index + 1),
                    el("span", { class: "sr-only" }, t("fill.blank", { number: index + 1 })),
                    before === null ? t("fill.typed") : el("span", { class: "was" }, before)),
                stepper(name, blank));
            const offered = known?.candidates ?? [];
            const chips = offered.map((candidate, place) => chip(name, blank, candidate, before, place));
            if (blank.fixed !== null && !offered.some((candidate) => candidate.text === blank.fixed)) {
                chips.unshift(chip(name, blank, { text: blank.fixed, probability: null }, before, "own"));
            }
            return el("div", { class: "blank-block", role: "group", "aria-label": t("fill.blank-named", { number: index + 1, word: before ?? "____" }) },
                head, el("div", { class: "chips" }, chips.length ? chips : el("span", { class: "hint" }, t(computing ? "running" : "fill.waiting"))),
                known?.shares ? el("p", { class: "hint" }, t("fill.shares")) : null);
        }

        function chip(name, blank, { text, probability }, before, place) {
            const shown = text.trim() || "∅";
            const was = before !== null && text.trim() === before.trim();
            return el("button", { type: "button", class: "chip", "aria-pressed": String(blank.fixed === text), dataset: { key: `${name}-${blank.id}-${place}` },
                title: blank.fixed === text ? t("fill.unfix") : t("fill.fix"), onclick: () => choose(blank, text) },
            el("span", { class: "chip-text" }, shown, was ? [el("span", { class: "was-dot", "aria-hidden": "true" }, " ●"), el("span", { class: "sr-only" }, t("fill.was"))] : null),
            probability === null ? null : [el("span", { class: "chip-figure" }, percent(probability)), bar(probability)]);
        }

        /** Return what a model writes into a blank without a number of tokens, or the user's setting for these. */
        function usual(name) {
            if (input.lengths.trim()) return t("fill.tokens", { count: input.lengths.trim() });
            const objective = context.models().find((model) => model.id === name)?.objective;
            return FREE.has(objective) ? t("fill.free") : WORD.has(objective) ? t("fill.word") : t("fill.tokens", { count: 1 });
        }

        function stepper(name, blank) {
            const button = (step, text, label) => el("button", { type: "button", class: "quiet icon", "aria-label": label, dataset: { key: `${name}-${blank.id}-${step}` },
                onclick: () => lengthen(blank, step) }, text);
            return el("div", { class: "stepper" }, button(-1, "−", t("fill.shorter")),
                el("span", { class: "stepper-value" }, blank.length ? t("fill.tokens", { count: blank.length }) : usual(name)),
                button(1, "+", t("fill.longer")));
        }

        models();
        context.onModelChange(() => { models(); show(); soon(); });
        input.blanks = blanked.withTyped(input.blanks.filter((blank) => blank.end <= input.text.length), input.text);
        show();
        if (hasOpen() && !results.size) soon();

        return { run: run.run, stop: run.stop };
    }

    texts({
        en: {
            "fill.title": "Fill",
            "fill.run": "Fill",
            "fill.text": "Text",
            "fill.placeholder": "Write a sentence",
            "fill.empty": "Write a sentence, then click the words that the model should fill.",
            "fill.examples": "She closed the {door} and listened to the {rain}.|The ship left the {harbour} before the storm.|春天来了，河边的{柳树}都绿了。",
            "fill.words": "Click a word to blank it, and again to restore it. Drag over several for one blank.",
            "fill.words.keys": "Arrow keys go from word to word, Space blanks or restores, Shift with an arrow takes in several, + and − change the length of a blank.",
            "fill.long": "Only the beginning of a long text can be clicked; write ____ for a blank further down.",
            "fill.clear": "Restore all",
            "fill.compare": "Compare with",
            "fill.second": "Model to compare with",
            "fill.settings": "Settings",
            "fill.top": "Candidates for each blank",
            "fill.lengths": "Tokens of a blank",
            "fill.lengths.hint": "A number such as 2, or a range such as 1-3, for blanks without a number of their own.",
            "fill.penalty": "Length penalty",
            "fill.penalty.hint": "Above 0, longer fills of GLM and T5 rank higher.",
            "fill.unknown": "Also fill when many words are unknown to the model",
            "fill.no-text": "Write a text first.",
            "fill.no-blank": "The text has no blank; click a word, or write ____.",
            "fill.blank": "Blank {number}:",
            "fill.blank-named": "Blank {number}: {word}",
            "fill.typed": "blank",
            "fill.waiting": "No candidates yet",
            "fill.shares": "Percentages are shares among these candidates.",
            "fill.fix": "Choose this; the other blanks are filled again",
            "fill.unfix": "Take the choice back",
            "fill.was": " (stood here)",
            "fill.free": "free length",
            "fill.word": "1 word",
            "fill.tokens": "{count} {count:token|tokens}",
            "fill.shorter": "Shorter blank",
            "fill.longer": "Longer blank",
            "fill.blanked": " (blank {number}, was {word})",
        },
        zh: {
            "fill.title": "填空",
            "fill.run": "填空",
            "fill.text": "文本",
            "fill.placeholder": "写一句话",
            "fill.empty": "写一句话，然后点击要让模型填写的词。",
            "fill.examples": "春天来了，河边的{柳树}都绿了。|他把{书}放在桌上，走到{窗}前。|She closed the {door} and listened to the {rain}.",
            "fill.words": "点击一个词把它挖空，再点一次恢复。拖过几个词，就成为一个空。",
            "fill.words.keys": "方向键在词之间移动，空格键挖空或恢复，Shift 加方向键选取多个，+ 和 − 改变空的长度。",
            "fill.long": "长文本只有开头可以点击；后面的空请写成 ____。",
            "fill.clear": "全部恢复",
            "fill.compare": "对比",
            "fill.second": "用来对比的模型",
            "fill.settings": "设置",
            "fill.top": "每个空的候选数",
            "fill.lengths": "空的词元数",
            "fill.lengths.hint": "一个数，如 2；或一个范围，如 1-3。用于没有指定长度的空。",
            "fill.penalty": "长度惩罚",
            "fill.penalty.hint": "大于 0 时，GLM 和 T5 更偏向较长的填法。",
            "fill.unknown": "即使许多词模型不认识，也进行填空",
            "fill.no-text": "请先写一段文本。",
            "fill.no-blank": "文本中没有空；请点击一个词，或写 ____。",
            "fill.blank": "第 {number} 空：",
            "fill.blank-named": "第 {number} 空：{word}",
            "fill.typed": "空",
            "fill.waiting": "还没有候选",
            "fill.shares": "百分比是在这些候选之间的占比。",
            "fill.fix": "选定它；其余的空会重新填写",
            "fill.unfix": "取消选定",
            "fill.was": "（原来的词）",
            "fill.free": "长度不限",
            "fill.word": "1 个词",
            "fill.tokens": "{count} 个词元",
            "fill.shorter": "缩短此空",
            "fill.longer": "加长此空",
            "fill.blanked": "（第 {number} 空，原为 {word}）",
        },
    });
})();
