/* The panel Look inside: how the text of a request is cut into tokens, and who sees whom.
 *
 * Other panels open it by `insideButton(() => ({model, use, input}))`, which goes to `#/inside?...`. The picture of the
 * attention is in `square.js`.
 */
"use strict";
(() => {
    const { el, fill, t, texts, panel, saved, api, menu, field, textarea, number } = blankfill;
    const PATHS = { "/v1/fill": "fill", "/v1/classify": "classify", "/v1/tag": "tag", "/v1/answer": "answer" };
    const USES = ["fill", "complete", "chat", "embed", "classify", "tag", "answer"];

    texts({
        en: {
            "inside": "Look inside",
            "inside.run": "Show",
            "inside.input": "Text or JSON",
            "inside.placeholder": "A text. For chat also a list of messages, for a task an object with its fields, as JSON.",
            "inside.empty": "See a text as the model reads it: its tokens with their positions, and which of them see each other.",
            "inside.example": "The old boat sleeps on the sea.",
            "inside.example.fill": "The old [MASK] sleeps on the sea.",
            "inside.none": "Write a text first.",
            "inside.json": "The input begins like JSON but cannot be read as such: {why}",
            "inside.use": "Read for",
            "inside.use.fill": "filling blanks",
            "inside.use.complete": "writing",
            "inside.use.chat": "chat",
            "inside.use.embed": "embedding",
            "inside.use.classify": "classifying",
            "inside.use.tag": "tagging",
            "inside.use.answer": "answering",
            "inside.cut": "Show the beginning of a text that is too long",
            "inside.summary": "{length} {length:column|columns} · objective {objective} · positions {scheme}",
            "inside.summary.cut": "The first {shown} of {length} columns are shown.",
            "inside.row": "Row",
            "inside.row.of": "{at} of {count}",
            "inside.tokens": "Tokens; move with the arrow keys",
            "inside.side.encoder": "Encoder",
            "inside.side.decoder": "Decoder",
            "inside.key.blank": "a blank",
            "inside.key.special": "special",
            "inside.key.unknown": "unknown to the tokenizer",
            "inside.key.predicts": "predicts here",
            "inside.chosen": "Column {column}: {token} (id {id})",
            "inside.facts": "segment {segment}, rank {rank}, horizon {horizon}",
            "inside.sees": "Sees {count}: {list}",
            "inside.seen": "Seen by {count}: {list}",
            "inside.nobody": "none",
            "inside.next": "The next token is written at {positions}; there is room for {room} {room:token|tokens}.",
            "inside.next.endless": "The next token is written at {positions}; there is no limit to what follows.",
            "inside.next.query": "It is predicted at a column of its own, {token}.",
            "inside.rule": "Who sees whom",
            "inside.rule.how": "A line is a token that looks, a column a token that is seen. Token i sees token j when both have the same segment and the rank of j is at most the horizon of i.",
            "inside.rule.cross": "Every column of the decoder also sees every column of the encoder.",
            "inside.layers.all": "Layers that see everything",
            "inside.layers.near": "Layers that see {window} {window:position|positions} to each side",
            "inside.square": "Attention: {seen} of {all} pairs see each other. Move with the arrow keys.",
            "inside.pair.yes": "{query} sees {key}",
            "inside.pair.no": "{query} does not see {key}",
            "inside.table": "As a table",
            "inside.table.column": "Column",
            "inside.table.token": "Token",
            "inside.table.sees": "Sees columns",
            "inside.button": "Look inside",
        },
        zh: {
            "inside": "看内部",
            "inside.run": "显示",
            "inside.input": "文字或 JSON",
            "inside.placeholder": "一段文字。聊天也可用消息列表，任务也可用含其字段的对象（JSON）。",
            "inside.empty": "看看模型读到的文字：词元及其位置，以及哪些词元能看见哪些词元。",
            "inside.example": "旧船睡在海上。",
            "inside.example.fill": "旧[MASK]睡在海上。",
            "inside.none": "请先写一些文字。",
            "inside.json": "输入看起来像 JSON，但无法读取：{why}",
            "inside.use": "用于",
            "inside.use.fill": "填空",
            "inside.use.complete": "写作",
            "inside.use.chat": "聊天",
            "inside.use.embed": "向量",
            "inside.use.classify": "分类",
            "inside.use.tag": "标注",
            "inside.use.answer": "问答",
            "inside.cut": "文字太长时只显示开头",
            "inside.summary": "{length} 列 · 目标 {objective} · 位置 {scheme}",
            "inside.summary.cut": "共 {length} 列，显示前 {shown} 列。",
            "inside.row": "行",
            "inside.row.of": "第 {at} 行，共 {count} 行",
            "inside.tokens": "词元；用方向键移动",
            "inside.side.encoder": "编码器",
            "inside.side.decoder": "解码器",
            "inside.key.blank": "空白",
            "inside.key.special": "特殊",
            "inside.key.unknown": "分词器不认识",
            "inside.key.predicts": "在此预测",
            "inside.chosen": "第 {column} 列：{token}（编号 {id}）",
            "inside.facts": "段 {segment}，序 {rank}，视野 {horizon}",
            "inside.sees": "看见 {count} 个：{list}",
            "inside.seen": "被 {count} 个看见：{list}",
            "inside.nobody": "无",
            "inside.next": "下一个词元写在 {positions}；还有 {room} 个词元的空间。",
            "inside.next.endless": "下一个词元写在 {positions}；其后长度不限。",
            "inside.next.query": "它在单独的一列 {token} 处预测。",
            "inside.rule": "谁看见谁",
            "inside.rule.how": "行是在看的词元，列是被看的词元。当两者段相同，且 j 的序不大于 i 的视野时，词元 i 看见词元 j。",
            "inside.rule.cross": "解码器的每一列还看见编码器的每一列。",
            "inside.layers.all": "看见全部的层",
            "inside.layers.near": "向两侧各看见 {window} 个位置的层",
            "inside.square": "注意力：{all} 对中有 {seen} 对能看见。用方向键移动。",
            "inside.pair.yes": "{query} 看见 {key}",
            "inside.pair.no": "{query} 看不见 {key}",
            "inside.table": "以表格显示",
            "inside.table.column": "列",
            "inside.table.token": "词元",
            "inside.table.sees": "看见的列",
            "inside.button": "看内部",
        },
    });

    const kept = saved("inside", { input: "", use: "fill", truncate: false });
    let shown = null; // the last answer
    let wished = null; // what another panel wants to be shown

    /**
     * Return a button of another panel that shows its request here. request(): `{model, use, input}`, or a request to one
     * of PATHS as `showCode` has it; null where there was none.
     */
    blankfill.insideButton = (request) => el("button", { class: "quiet", type: "button", dataset: { act: "inside" }, onclick: () => {
        const asked = request();
        if (!asked) return blankfill.notify(t("code.empty"));
        const { model, use, input } = asked.path ? { use: PATHS[asked.path], ...asked.body } : asked;
        const query = new URLSearchParams({ model, use, input: typeof input === "string" ? input : JSON.stringify(input) });
        location.hash = `#/inside?${query}`;
    } }, t("inside.button"));

    /** Read the request of the address, if it has one. */
    function ofAddress() {
        const [id, query] = location.hash.replace(/^#\/?/, "").split("?");
        if (id !== "inside" || !query) return null;
        const values = Object.fromEntries(new URLSearchParams(query));
        return USES.includes(values.use) && values.input ? values : null;
    }

    let takeWish = () => {};
    addEventListener("hashchange", () => {
        wished = ofAddress() ?? wished;
        if (wished) takeWish();
    });
    wished = ofAddress();

    /** Return the input as a request has it: JSON where it is a list or an object. */
    function inputOf(text) {
        if (!/^\s*(\[\s*[[{"]|\{)/.test(text)) return text;
        try {
            return JSON.parse(text);
        } catch (error) {
            throw new blankfill.ApiFailure(t("inside.json", { why: error.message }), 422);
        }
    }

    function render(root, context) {
        const result = el("div", { class: "result" });
        const runner = blankfill.runner(work, { label: t("inside.run") });
        const input = textarea(kept.input, (text) => { kept.input = text; }, { rows: 2, class: "prose", placeholder: t("inside.placeholder"), "aria-label": t("inside.input") });
        const uses = el("div", { class: "field inline" });
        const picker = context.modelPicker();
        const box = el("input", { type: "checkbox", checked: kept.truncate, onchange: (event) => { kept.truncate = event.target.checked; } });
        fill(root, el("div", { class: "toolbar" }, picker, uses, el("span", { class: "end" }, context.codeButton())), input,
            el("div", { class: "under" }, runner.node, el("label", { class: "check" }, box, t("inside.cut"))), result);
        context.onModelChange(drawUses);
        drawUses();
        if (shown) draw(shown);
        else fill(result, blankfill.empty(t("inside.empty"), [{ text: example(), use: () => { set(example()); runner.run(); } }]));
        takeWish = () => {
            const wish = wished;
            wished = null;
            const select = picker.querySelector("select");
            if (wish.model && [...select.options].some((option) => option.value === wish.model)) {
                select.value = wish.model;
                select.dispatchEvent(new Event("change"));
            }
            kept.use = wish.use;
            drawUses();
            set(wish.input);
            runner.run();
        };
        if (wished) takeWish();
        return { run: () => runner.run(), stop: () => runner.stop() };

        function example() {
            return t(kept.use === "fill" ? "inside.example.fill" : "inside.example");
        }

        function set(text) {
            kept.input = text;
            input.setValue(text);
        }

        /** Draw the menu of what the model can be used for. */
        function drawUses() {
            const able = USES.filter((use) => context.model()?.abilities.includes(use));
            if (!able.includes(kept.use)) kept.use = able[0] ?? "fill";
            const select = menu(able.map((use) => [use, t(`inside.use.${use}`)]), kept.use, (use) => { kept.use = use; }, { id: blankfill.uid("use") });
            fill(uses, el("label", { for: select.id }, t("inside.use")), select);
        }

        async function work(signal) {
            if (!kept.input.trim()) throw new blankfill.ApiFailure(t("inside.none"), 422);
            const body = { model: context.model().id, input: inputOf(kept.input), use: kept.use };
            if (kept.truncate) body.truncate = true;
            context.showCode({ path: "/v1/inspect", body });
            result.classList.add("stale");
            try {
                shown = await api("/v1/inspect", body, { signal });
                draw(shown);
            } finally {
                result.classList.remove("stale");
            }
        }

        /** Draw an answer. at: the number of the row that is shown, of several. */
        function draw(answer, at = 0) {
            const row = answer.data[at];
            if (!row) return fill(result);
            const pager = answer.data.length > 1 && el("div", { class: "field inline" }, el("label", { for: "inside-row" }, t("inside.row")),
                menu(answer.data.map((_, k) => [String(k), t("inside.row.of", { at: k + 1, count: answer.data.length })]), String(at),
                    (value) => { draw(answer, Number(value)); document.getElementById("inside-row").focus(); }, { id: "inside-row" }));
            const sentence = [t("inside.summary", { length: row.length, objective: row.objective, scheme: row.position_scheme })];
            if (row.truncated) sentence.push(t("inside.summary.cut", { length: row.length, shown: row.columns.length }));
            fill(result, el("div", { class: "toolbar" }, el("p", { class: "hint" }, sentence.join(" · ")), pager || null), blankfill.rowView(row));
        }
    }

    /** Return positions by their channels: pos 1 = 4, pos 2 = 2. */
    const placesOf = (positions) => Object.entries(positions).map(([name, place]) => `${name} = ${place}`).join(", ");

    /** Return a column with its numbers as they are, without separators. */
    const plain = ({ column, token, id, segment, rank, horizon }) => ({ token, ...Object.fromEntries(Object.entries({ column, id, segment, rank, horizon }).map(([key, value]) => [key, String(value)])) });

    // ---- A row -------------------------------------------------------------------------------------------------

    /** Return the view of a row: its tokens, what the chosen one sees, the picture of the attention, and a table. */
    blankfill.rowView = function rowView(row) {
        const columns = row.columns;
        const info = el("div", { class: "inside-info", role: "status" });
        let grid = row.sees;
        const chips = columns.map((column, k) => chip(column, k));
        const square = blankfill.attentionSquare(row, { choose });
        let chosen = -1;

        function chip(column, k) {
            const note = [column.role === "text" ? null : t(`inside.key.${column.role}`), column.predicts ? t("inside.key.predicts") : null].filter(Boolean);
            const unseen = (text) => el("span", { class: "sr-only" }, text);
            return el("button", {
                class: "cell", type: "button", tabindex: k === 0 ? "0" : "-1", dataset: { role: column.role, predicts: String(column.predicts) },
                onfocus: () => choose(k), onpointerenter: () => choose(k), onkeydown: (event) => move(event, k),
            }, unseen(`${t("inside.table.column")} ${column.column}: `), el("span", { class: "word" }, column.token), unseen(", id "), el("span", { class: "id" }, String(column.id)),
            unseen(`, ${row.channels.join(" · ")}: `), el("span", { class: "places" }, row.channels.map((name) => column.positions[name]).join(" · ")),
            note.length ? unseen(`, ${note.join(", ")}`) : null);
        }

        function move(event, k) {
            const to = { ArrowRight: k + 1, ArrowLeft: k - 1, ArrowDown: k + 1, ArrowUp: k - 1, Home: 0, End: columns.length - 1 }[event.key];
            if (to === undefined || !chips[to]) return;
            event.preventDefault();
            chips[to].focus();
        }

        const listed = (numbers) => {
            const words = numbers.slice(0, 12).map((j) => columns[j].token).join(" ");
            return numbers.length > 12 ? `${words} …` : words || t("inside.nobody");
        };

        /** Choose a column; key: the column of the pair under the pointer, null for none. */
        function choose(k, key = null) {
            chosen = k;
            const seen = columns.map((_, j) => j).filter((j) => grid[k][j] === "1");
            const seers = columns.map((_, i) => i).filter((i) => grid[i][k] === "1");
            chips.forEach((one, j) => {
                one.tabIndex = j === k ? 0 : -1;
                one.classList.toggle("chosen", j === k);
                one.classList.toggle("seen", j !== k && grid[k][j] === "1");
            });
            square.mark(k, key);
            const pair = key === null ? null : t(grid[k][key] === "1" ? "inside.pair.yes" : "inside.pair.no", { query: columns[k].token, key: columns[key].token });
            fill(info, el("p", {}, el("strong", {}, t("inside.chosen", plain(columns[k]))), ` · ${placesOf(columns[k].positions)} · ${t("inside.facts", plain(columns[k]))}`), pair && el("p", {}, pair),
                el("p", {}, t("inside.sees", { count: seen.length, list: listed(seen) })), el("p", {}, t("inside.seen", { count: seers.length, list: listed(seers) })));
        }

        const sides = [null, "encoder", "decoder"].map((side) => {
            const own = chips.filter((_, k) => columns[k].side === side);
            if (!own.length) return null;
            return el("section", {}, side && el("h2", {}, t(`inside.side.${side}`)),
                el("div", { class: "cells", role: "group", "aria-label": [side && t(`inside.side.${side}`), t("inside.tokens")].filter(Boolean).join(": ") }, own));
        });
        const kinds = ["blank", "special", "unknown"].filter((role) => columns.some((column) => column.role === role));
        const keys = el("p", { class: "keys-row hint" }, kinds.map((role) => el("span", {}, el("i", { class: "swatch", dataset: { role } }), t(`inside.key.${role}`))),
            columns.some((column) => column.predicts) ? el("span", {}, el("i", { class: "swatch", dataset: { predicts: "true" } }), t("inside.key.predicts")) : null,
            el("span", {}, `${columns.length ? "#" : ""} · ${row.channels.join(" · ")}`));
        const layers = row.near && el("div", { class: "choices", role: "group" }, [["all", row.sees], ["near", row.near]].map(([name, lines]) => el("button", {
            class: "choice", type: "button", "aria-pressed": String(lines === grid), onclick: (event) => {
                grid = lines;
                square.show(lines);
                for (const one of event.target.parentElement.children) one.setAttribute("aria-pressed", String(one === event.target));
                if (chosen >= 0) choose(chosen);
            },
        }, t(`inside.layers.${name}`, { window: row.window }))));
        const next = row.next && el("p", { class: "hint" }, t(row.next.room === null ? "inside.next.endless" : "inside.next", { positions: placesOf(row.next.positions), room: row.next.room }), row.next.query_token ? ` ${t("inside.next.query", { token: row.next.query_token })}` : "");
        const view = el("div", { class: "stack" }, sides, keys, next, info,
            el("section", { class: "stack" }, el("h2", {}, t("inside.rule")),
                el("p", { class: "hint" }, t("inside.rule.how"), columns[0]?.side ? ` ${t("inside.rule.cross")}` : ""), layers || null, square.node),
            el("details", {}, el("summary", {}, t("inside.table")), table(row)));
        const first = columns.findIndex((column) => column.predicts);
        choose(first < 0 ? 0 : first);
        return view;
    };

    /** Return the numbers of the columns that a line has on, as ranges: 0–5, 7. */
    function ranges(line, columns) {
        const parts = [];
        for (let begin = 0; begin < line.length; begin += 1) {
            if (line[begin] !== "1") continue;
            let end = begin;
            while (line[end + 1] === "1" && columns[end + 1].side === columns[begin].side) end += 1;
            const side = columns[begin].side ? `${t(`inside.side.${columns[begin].side}`)} ` : "";
            parts.push(side + (end > begin ? `${columns[begin].column}–${columns[end].column}` : String(columns[begin].column)));
            begin = end;
        }
        return parts.join(", ") || t("inside.nobody");
    }

    /** Return the row as a table, for those who cannot see the picture. */
    function table(row) {
        const heads = [t("inside.table.column"), t("inside.table.token"), "id", ...row.channels, "segment", "rank", "horizon", t("inside.table.sees")];
        const lines = row.columns.map((column, k) => el("tr", {}, el("td", { class: "figure" }, column.side ? `${t(`inside.side.${column.side}`)} ${column.column}` : String(column.column)),
            el("th", { scope: "row" }, column.token), [column.id, ...row.channels.map((name) => column.positions[name]), column.segment, column.rank, column.horizon]
                .map((value) => el("td", { class: "figure" }, number(value, { useGrouping: false }))), el("td", {}, ranges(row.sees[k], row.columns))));
        return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("inside.table") }, el("table", { class: "facts" },
            el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, lines)));
    }

    panel({ id: "inside", order: 70, title: "inside", abilities: USES, render });
})();
