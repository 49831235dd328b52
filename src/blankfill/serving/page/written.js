/* What Write and Chat share: the settings of writing, the request and its pieces, tokens with their probabilities, and the
 * list of what was written before. */
"use strict";
(() => {
    const { el, fill, t, texts, saved, field, number, percent, talks, download } = blankfill;

    texts({
        en: {
            "written.settings": "Settings",
            "written.reset": "Reset",
            "written.default": "as the model",
            "written.temperature": "Temperature",
            "written.temperature.hint": "0 takes the likeliest token each time; higher is more varied.",
            "written.top_p": "Top p",
            "written.top_p.hint": "Only the likeliest tokens that together have this probability.",
            "written.top_k": "Top k",
            "written.top_k.hint": "Only so many of the likeliest tokens.",
            "written.max_tokens": "Largest length",
            "written.max_tokens.hint": "In tokens.",
            "written.seed": "Seed",
            "written.seed.hint": "The same seed writes the same text again.",
            "written.repetition_penalty": "Repetition penalty",
            "written.repetition_penalty.hint": "Above 1 makes tokens that already stand there less likely.",
            "written.stop": "Stop at",
            "written.stop.hint": "Texts at which writing ends, one on a line.",
            "written.probabilities": "Show the probability of each token",
            "written.bad": "{name}: {value} is not a number.",
            "written.finish.length": "The length limit was reached.",
            "written.finish.stopped": "Stopped.",
            "written.finish.error": "The text broke off.",
            "written.finish.none": "There was no answer.",
            "written.finish.interrupted": "The page was left before the text was finished.",
            "written.history": "History",
            "written.history.empty": "Nothing yet. What you write here is kept in this browser only.",
            "written.history.note": "Kept in this browser only. The oldest entries give way when it is full.",
            "written.history.dropped": "{count:One old entry was|Old entries were} removed from the history to make room.",
            "written.open": "Open",
            "written.rename": "Rename",
            "written.delete": "Delete",
            "written.clear": "Delete all",
            "written.clear.sure": "Really delete all?",
            "written.name": "Name",
            "written.export.md": "Save as Markdown",
            "written.export.json": "Save as JSON",
            "written.import": "Open a JSON file",
            "written.token": "{token}: {share}",
            "written.token.more": "Other tokens here",
            "written.tokens": "Tokens with their probabilities; move with the arrow keys",
            "written.tokens.key": "Pale: the model was sure. Strong: it had other ideas.",
            "written.version": "Version {at} of {count}",
            "written.version.before": "Version before",
            "written.version.after": "Version after",
        },
        zh: {
            "written.settings": "设置",
            "written.reset": "重置",
            "written.default": "按模型",
            "written.temperature": "温度",
            "written.temperature.hint": "0 每次取最可能的词元；越高越多样。",
            "written.top_p": "Top p（核采样）",
            "written.top_p.hint": "只从合计达到此概率的最可能词元中选。",
            "written.top_k": "Top k（前 k 个）",
            "written.top_k.hint": "只从这么多个最可能的词元中选。",
            "written.max_tokens": "最大长度",
            "written.max_tokens.hint": "以词元计。",
            "written.seed": "随机种子",
            "written.seed.hint": "同一种子会写出同样的文字。",
            "written.repetition_penalty": "重复惩罚",
            "written.repetition_penalty.hint": "大于 1 时，已出现的词元更不易再出现。",
            "written.stop": "停止于",
            "written.stop.hint": "写到这些文字时停止，每行一个。",
            "written.probabilities": "显示每个词元的概率",
            "written.bad": "{name}：{value} 不是数字。",
            "written.finish.length": "已达到长度上限。",
            "written.finish.stopped": "已停止。",
            "written.finish.error": "文字中断了。",
            "written.finish.none": "没有得到回答。",
            "written.finish.interrupted": "文字写完之前页面被关闭。",
            "written.history": "历史",
            "written.history.empty": "还没有内容。你在这里写的只保存在此浏览器中。",
            "written.history.note": "只保存在此浏览器中。空间不足时，最旧的条目会被删除。",
            "written.history.dropped": "为腾出空间，已从历史中删除旧条目。",
            "written.open": "打开",
            "written.rename": "重命名",
            "written.delete": "删除",
            "written.clear": "全部删除",
            "written.clear.sure": "确定全部删除？",
            "written.name": "名称",
            "written.export.md": "存为 Markdown",
            "written.export.json": "存为 JSON",
            "written.import": "打开 JSON 文件",
            "written.token": "{token}，概率 {share}",
            "written.token.more": "此处的其他词元",
            "written.tokens": "词元及其概率；用方向键移动",
            "written.tokens.key": "浅色：模型很确定。深色：模型另有想法。",
            "written.version": "第 {at} 版，共 {count} 版",
            "written.version.before": "上一版",
            "written.version.after": "下一版",
        },
    });

    // ---- Settings ----------------------------------------------------------------------------------------------

    const NUMBERS = [
        ["temperature", { min: 0, max: 2, step: "any" }], ["top_p", { min: 0, max: 1, step: "any" }], ["top_k", { min: 0, step: 1 }],
        ["max_tokens", { min: 1, step: 1 }], ["repetition_penalty", { min: 0, step: "any" }], ["seed", { step: 1 }],
    ];
    const USUAL = { temperature: "", top_p: "", top_k: "", max_tokens: "200", repetition_penalty: "", seed: "", stop: "", probabilities: false };

    /**
     * Return the settings of a panel: `{node, fields()}`. name: under which they are kept. fields() returns those of a
     * request; it throws an Error with a sentence for a value that is no number. changed() is called for `probabilities`.
     */
    function settings(name, changed) {
        const values = saved(name, USUAL);
        const node = el("details", { class: "settings" });
        const more = el("div", { class: "stack" }); // what a panel adds
        const draw = () => {
            const inputs = NUMBERS.map(([key, limits]) => field(t(`written.${key}`), el("input", {
                type: "number", inputmode: "decimal", name: key, ...limits, value: values[key], placeholder: t("written.default"),
                oninput: (event) => { values[key] = event.target.validity.badInput ? "?" : event.target.value; },
            }), t(`written.${key}.hint`)));
            const stop = field(t("written.stop"), blankfill.textarea(values.stop, (text) => { values.stop = text; }, { rows: 1, name: "stop" }), t("written.stop.hint"));
            const box = el("input", { type: "checkbox", checked: values.probabilities, onchange: (event) => {
                values.probabilities = event.target.checked;
                changed();
            } });
            const reset = el("button", { class: "quiet", type: "button", onclick: () => {
                Object.assign(values, USUAL);
                draw();
                node.querySelector("input").focus();
                changed();
            } }, t("written.reset"));
            fill(node, el("summary", {}, t("written.settings")), el("div", { class: "grid" }, inputs, stop),
                el("div", { class: "toolbar" }, el("label", { class: "check" }, box, t("written.probabilities")), reset), more);
        };
        draw();

        function fields() {
            const given = {};
            for (const [key] of NUMBERS) {
                const text = String(values[key]).trim();
                if (text === "") continue;
                if (!Number.isFinite(Number(text))) throw new blankfill.ApiFailure(t("written.bad", { name: t(`written.${key}`), value: text }), 422);
                given[key] = Number(text);
            }
            const stop = values.stop.split("\n").filter((line) => line !== "");
            return stop.length ? { ...given, stop } : given;
        }

        return { node, more, fields, get probabilities() { return values.probabilities; } };
    }

    // ---- Requests ----------------------------------------------------------------------------------------------

    /**
     * Write one answer: send a request that streams, and hand over its pieces. onPiece(text, tokens). Returns the reason
     * of the end: "stop" or "length". tokens: `[text, logprob, [[text, logprob], …]]` each, of a request with logprobs.
     */
    async function write(path, body, onPiece, signal) {
        let finish = null;
        await blankfill.stream(path, body, (event) => {
            const choice = event.choices?.[0];
            if (!choice) return;
            const text = choice.delta?.content ?? choice.text ?? "";
            const tokens = tokensOf(choice.logprobs);
            if (text || tokens.length) onPiece(text, tokens);
            finish = choice.finish_reason ?? finish;
        }, { signal });
        return finish;
    }

    /** Return the tokens of a piece, in either shape of OpenAI's. */
    function tokensOf(logprobs) {
        if (!logprobs) return [];
        if (logprobs.content) {
            return logprobs.content.map(({ token, logprob, top_logprobs }) => [token, logprob, (top_logprobs ?? []).map((one) => [one.token, one.logprob])]);
        }
        return (logprobs.tokens ?? []).map((token, k) => [token, logprobs.token_logprobs[k], Object.entries(logprobs.top_logprobs?.[k] ?? {})]);
    }

    /** Return a sentence on how a text ended, or null for one that ended by itself. */
    function finishOf(node) {
        if (!node.finish || node.finish === "stop") return null;
        if (node.finish === "error" && !node.text) return t("written.finish.none");
        return t(`written.finish.${node.finish}`);
    }

    // ---- Tokens with probabilities -----------------------------------------------------------------------------

    /** A token as it is named: white space alone, line ends and control characters have signs. */
    const shownToken = (text) => {
        const plain = text.trim() === "" ? text.replaceAll(" ", "␣") || "∅" : text;
        return plain.replaceAll("\n", "↵").replace(/[\u0000-\u001f]/g, (sign) => String.fromCharCode(0x2400 + sign.charCodeAt(0)))
            .replace(/[\u007f-\u009f\u200b-\u200f\u2028-\u202e\ufeff]/g, "�");
    };

    /** Return the tokens of a text, each coloured by its probability; those it might have been stand beside the chosen one. */
    function tokenView(tokens) {
        const info = el("div", { class: "token-info", role: "status" });
        const spans = tokens.map(([text, logprob], k) => {
            const share = Math.exp(logprob);
            const span = el("span", {
                class: "tok", role: "option", tabindex: k === 0 ? "0" : "-1", "aria-selected": "false", onfocus: () => choose(k), onclick: () => span.focus(),
                onpointerenter: () => choose(k), "aria-label": t("written.token", { token: shownToken(text), share: percent(share) }),
            }, text);
            span.style.setProperty("--unsure", String(Math.round(Math.min(1, -logprob / 6) * 45)));
            return span;
        });
        const move = (k) => (event) => {
            const to = { ArrowRight: k + 1, ArrowDown: k + 1, ArrowLeft: k - 1, ArrowUp: k - 1, Home: 0, End: tokens.length - 1 }[event.key];
            if (to === undefined || !spans[to]) return;
            event.preventDefault();
            spans[to].focus();
        };
        spans.forEach((span, k) => span.addEventListener("keydown", move(k)));
        function choose(k) {
            const [text, logprob, others] = tokens[k];
            spans.forEach((span, at) => {
                span.tabIndex = at === k ? 0 : -1;
                span.setAttribute("aria-selected", String(at === k));
            });
            const rows = [...others].sort((a, b) => b[1] - a[1]).map(([other, value]) => [shownToken(other), Math.exp(value)]);
            const at = rows.findIndex(([other]) => other === shownToken(text));
            fill(info, el("p", {}, el("strong", {}, shownToken(text)), ` ${percent(Math.exp(logprob))}`),
                rows.length ? blankfill.bars(rows, { label: t("written.token.more"), strong: at < 0 ? [] : [at] }) : null);
        }
        const list = el("div", { class: "toks prose", role: "listbox", "aria-orientation": "horizontal", "aria-label": t("written.tokens") }, spans);
        return el("div", { class: "token-view" }, list, el("p", { class: "hint" }, t("written.tokens.key")), info);
    }

    // ---- Versions ----------------------------------------------------------------------------------------------

    /** Return the switch between the versions of a message, null where there is one only. choose(node) shows another. */
    function versionSwitch(talk, node, choose) {
        const all = talks.versions(talk, node);
        const at = all.indexOf(node);
        if (all.length < 2) return null;
        const step = (to, key, sign) => el("button", {
            class: "quiet icon", type: "button", "aria-label": t(key), disabled: !all[to], onclick: () => choose(all[to]), dataset: { version: sign },
        }, el("span", { "aria-hidden": "true" }, sign));
        return el("span", { class: "versions", role: "group", "aria-label": t("written.version", { at: at + 1, count: all.length }) },
            step(at - 1, "written.version.before", "‹"), el("span", { class: "figure", "aria-hidden": "true" }, `${number(at + 1)}/${number(all.length)}`),
            step(at + 1, "written.version.after", "›"));
    }

    // ---- The history -------------------------------------------------------------------------------------------

    /**
     * Return the button of the history of a kind of talks. open(talk) shows another talk; current() returns the one that
     * is shown; begin() shows a new one.
     */
    function historyButton(kind, { open, current, begin }) {
        return el("button", { class: "quiet", type: "button", onclick: () => openHistory(kind, { open, current, begin }) }, t("written.history"));
    }

    function openHistory(kind, { open, current, begin }) {
        const drawer = el("dialog", { class: "drawer", "aria-labelledby": "history-title" });
        const error = blankfill.errorSpot();
        const body = el("div", { class: "stack" });
        const file = el("input", { type: "file", accept: ".json,application/json", hidden: true, onchange: async () => {
            error.clear();
            try {
                const talk = talks.parse(await file.files[0].text(), kind);
                talks.store(talk);
                open(talk);
                drawer.close();
            } catch (failure) {
                error.show(failure);
            }
            file.value = "";
        } });

        function draw(focus = null) {
            const all = talks.list(kind);
            const rows = all.map((talk) => row(talk));
            const clear = el("button", { class: "quiet", type: "button", onclick: () => {
                if (clear.dataset.sure) {
                    talks.removeAll(kind);
                    begin();
                    draw("import");
                } else {
                    clear.dataset.sure = "yes";
                    fill(clear, t("written.clear.sure"));
                }
            } }, t("written.clear"));
            const choose = el("button", { class: "quiet", type: "button", dataset: { name: "import" }, onclick: () => file.click() }, t("written.import"));
            const save = (ending, text, type) => el("button", { class: "quiet", type: "button", dataset: { name: ending }, onclick: () => {
                download(talks.fileName(current(), ending), text(current()), type);
            } }, t(`written.export.${ending}`));
            fill(body, el("div", { class: "toolbar" },
                current().leaf ? [save("md", talks.markdown, "text/markdown"), save("json", talks.json, "application/json")] : null, choose, file),
                error.node, el("p", { class: "hint" }, all.length ? t("written.history.note") : t("written.history.empty")),
                rows.length ? [el("ul", { class: "talks" }, rows), clear] : null);
            if (focus) (body.querySelector(`[data-name="${focus}"]`) ?? body.querySelector("button"))?.focus();
        }

        function row(talk) {
            const date = new Intl.DateTimeFormat(blankfill.language === "zh" ? "zh-CN" : "en", { dateStyle: "medium", timeStyle: "short" }).format(talk.updated);
            const name = el("button", { class: "talk", type: "button", "aria-current": talk.id === current().id ? "true" : null, dataset: { name: talk.id }, onclick: () => {
                open(talk);
                drawer.close();
            } }, el("span", {}, talks.titleOf(talk)), el("span", { class: "hint" }, [date, talk.model].filter(Boolean).join(" · ")));
            const rename = el("button", { class: "quiet", type: "button", "aria-label": `${t("written.rename")}: ${talks.titleOf(talk)}`, onclick: () => {
                const input = el("input", { value: talks.titleOf(talk), "aria-label": t("written.name"), maxlength: 200 });
                const done = () => {
                    talk.title = input.value.trim();
                    if (talk.id === current().id) current().title = talk.title;
                    talks.store(talk);
                    draw(talk.id);
                };
                const form = el("form", { class: "rename", onsubmit: (event) => { event.preventDefault(); done(); }, onkeydown: (event) => {
                    if (event.key !== "Escape") return;
                    event.preventDefault();
                    event.stopPropagation();
                    draw(talk.id);
                } }, input, el("button", { class: "primary", type: "submit" }, t("written.rename")));
                line.replaceChildren(form);
                input.select();
            } }, t("written.rename"));
            const drop = el("button", { class: "quiet", type: "button", "aria-label": `${t("written.delete")}: ${talks.titleOf(talk)}`, onclick: () => {
                talks.remove(talk.id);
                if (talk.id === current().id) begin();
                draw("import");
            } }, t("written.delete"));
            const line = el("li", {}, name, rename, drop);
            return line;
        }

        const close = el("button", { class: "quiet", type: "button", onclick: () => drawer.close() }, t("close"));
        fill(drawer, el("div", { class: "drawer-head" }, el("h2", { id: "history-title" }, t("written.history")), close), body);
        drawer.addEventListener("close", () => drawer.remove());
        drawer.addEventListener("click", (event) => event.target === drawer && drawer.close());
        document.body.append(drawer);
        draw();
        drawer.showModal();
    }

    /** Keep a talk, and say so where old ones had to give way. */
    function storeTalk(talk, notify) {
        const dropped = talks.store(talk);
        if (dropped) notify(t("written.history.dropped", { count: dropped }));
    }

    /** Return whether the end of the page is in view, so that it may be kept in view while text comes. */
    const atEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 60;
    const toEnd = () => scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });

    blankfill.written = { settings, write, finishOf, tokenView, versionSwitch, historyButton, storeTalk, atEnd, toEnd };
})();
