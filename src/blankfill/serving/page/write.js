/* The panel Write: a text that the model continues, or whose blank it fills at length. */
"use strict";
(() => {
    const { el, fill, t, texts, panel, saved, talks, written, textarea } = blankfill;

    texts({
        en: {
            "write": "Write",
            "write.run": "Write",
            "write.text": "Text",
            "write.placeholder": "Begin a text. Ctrl+Enter lets the model continue it.",
            "write.new": "New",
            "write.empty": "The model continues your text. GLM, T5 and BART also write into a blank, [MASK], inside it.",
            "write.example.1": "It was a bright morning, and the old boat",
            "write.example.2": "Once upon a time there was a [MASK], and nobody knew why.",
            "write.none": "Write a text first.",
            "write.result": "The text with what the model wrote",
            "write.again": "Again",
            "write.more": "Continue",
            "write.use": "Use as the text",
            "write.copy": "Copy",
            "write.versions.text": "Your text",
            "write.versions.written": "Written",
        },
        zh: {
            "write": "写作",
            "write.run": "写",
            "write.text": "文字",
            "write.placeholder": "写个开头，按 Ctrl+Enter 让模型接着写。",
            "write.new": "新建",
            "write.empty": "模型会接着你的文字写下去。GLM、T5 和 BART 还能在文字中间的空白 [MASK] 处书写。",
            "write.example.1": "那是一个晴朗的早晨，那条旧船",
            "write.example.2": "从前有一个[MASK]，谁也不知道为什么。",
            "write.none": "请先写一些文字。",
            "write.result": "文字和模型所写的部分",
            "write.again": "重写",
            "write.more": "继续",
            "write.use": "用作文字",
            "write.copy": "复制",
            "write.versions.text": "你的文字",
            "write.versions.written": "所写",
        },
    });

    const kept = saved("write", { draft: "", talk: "" });
    let redraw = () => {}; // draws the panel that is shown now; the language may change while a model writes
    let talk = talks.reopened("write", kept.talk);

    let writing = false;
    addEventListener("pagehide", () => { if (writing) talks.store(talk); }); // what was written so far

    function render(root, context) {
        let live = null; // {node, body} of what is being written
        let parent = null; // the message behind which the model writes next; null: the text in the field

        const settings = written.settings("write.settings", () => draw());
        const runner = blankfill.runner(work, { label: t("write.run") });
        const result = el("div", { class: "result" });
        const draft = textarea(kept.draft, (text) => { kept.draft = text; }, {
            rows: 3, class: "prose", placeholder: t("write.placeholder"), "aria-label": t("write.text"),
        });
        const begin = el("button", { class: "quiet", type: "button", onclick: () => {
            open(talks.begin("write"));
            setDraft("");
            draft.focus();
        } }, t("write.new"));
        const history = written.historyButton("write", { open, current: () => talk, begin: () => open(talks.begin("write")) });
        fill(root, el("div", { class: "toolbar" }, context.modelPicker(), begin, history, el("span", { class: "end" }, context.codeButton())),
            draft, el("div", { class: "under" }, runner.node), result, settings.node);
        redraw = draw;
        draw();
        return { run: () => runner.run(), stop: () => runner.stop() };

        function setDraft(text) {
            kept.draft = text;
            draft.setValue(text);
        }

        function open(other) {
            runner.stop();
            talk = other;
            kept.talk = talk.id;
            const first = talks.path(talk)[0];
            if (first) setDraft(first.text);
            draw();
        }

        /** Return the message of the text in the field: the one that is there, or a new version of it. */
        function own() {
            if (!kept.draft) throw new blankfill.ApiFailure(t("write.none"), 422);
            const same = Object.values(talk.nodes).find((node) => node.parent === null && node.text === kept.draft);
            return same ?? talks.add(talk, null, "user", kept.draft);
        }

        async function work(signal) {
            const [mine, behind] = [talk, parent ?? own()];
            parent = null;
            const prompt = textOf(talks.path(mine, behind.id));
            const node = talks.add(mine, behind.id, "assistant", "");
            mine.model = node.model = context.model().id;
            kept.talk = mine.id;
            node.tokens = [];
            live = { node, body: null };
            writing = true;
            draw();
            try {
                const body = { model: mine.model, prompt, stream: true, ...settings.fields() };
                if (settings.probabilities) body.logprobs = 5;
                context.showCode({ path: "/v1/completions", body });
                written.storeTalk(mine, context.notify);
                node.finish = await written.write("/v1/completions", body, (text, tokens) => {
                    node.text += text;
                    node.tokens.push(...tokens);
                    const follows = written.atEnd();
                    if (live?.node === node && live.body) live.body.append(text);
                    if (follows) written.toEnd();
                }, signal);
                node.finish ??= "stop";
            } catch (error) {
                node.finish = error.name === "AbortError" ? "stopped" : "error";
                throw error;
            } finally {
                if (live?.node === node) live = null;
                if (!node.text && node.finish !== "stop") discard(mine, node);
                written.storeTalk(mine, context.notify);
                writing = live !== null;
                if (talk === mine) redraw();
            }
        }

        /** Remove a message of which nothing was written. */
        function discard(mine, node) {
            delete mine.nodes[node.id];
            if (mine.leaf === node.id) mine.leaf = node.parent;
        }

        function draw(focus = null) {
            const nodes = talks.path(talk);
            const last = nodes.at(-1);
            if (!last || last.role === "user") {
                const versions = last && talks.versions(talk, last).length > 1 ? bar(nodes) : null;
                fill(result, versions, nodes.length ? null : blankfill.empty(t("write.empty"), [1, 2].map((k) => (
                    { text: t(`write.example.${k}`), use: () => { setDraft(t(`write.example.${k}`)); draft.focus(); } }))));
                return;
            }
            const text = el("div", { class: "card prose said", "aria-label": t("write.result"), role: "region", "aria-busy": live ? "true" : null });
            for (const [part, node] of talks.parts(nodes)) {
                const span = el("span", { class: node ? "new" : "given" }, part);
                if (live && node === live.node) live.body = span;
                text.append(span);
            }
            const sentence = written.finishOf(last);
            fill(result, text, sentence && el("p", { class: "hint" }, sentence), live ? null : bar(nodes),
                settings.probabilities && last.tokens?.length && !live ? written.tokenView(last.tokens) : null);
            if (focus) result.querySelector(focus)?.focus();
        }

        /** Return the row of what can be done with a text. */
        function bar(nodes) {
            const [first, last] = [nodes[0], nodes.at(-1)];
            const act = (key, onclick) => el("button", { class: "quiet", type: "button", onclick, dataset: { act: key } }, t(`write.${key}`));
            const change = (name) => (other) => {
                const sign = document.activeElement?.dataset.version ?? "›";
                runner.stop();
                talks.show(talk, other);
                if (other.parent === null) setDraft(other.text);
                written.storeTalk(talk, context.notify);
                draw(`.${name} [data-version="${sign}"]:not(:disabled), .${name} [data-version]:not(:disabled)`);
            };
            const switches = [["text", first], ["written", last]].filter(([, node]) => node.role === (node === first ? "user" : "assistant")).map(([name, node]) => {
                const shown = written.versionSwitch(talk, node, change(`of-${name}`));
                return shown && el("span", { class: `labelled of-${name}` }, el("span", { class: "eyebrow" }, t(`write.versions.${name}`)), shown);
            });
            if (first === last) return el("div", { class: "acts" }, switches[0]);
            return el("div", { class: "acts" }, switches,
                act("again", () => { parent = talk.nodes[last.parent]; runner.run(); }),
                act("more", () => { parent = last; runner.run(); }),
                act("use", () => { setDraft(textOf(nodes)); draft.focus(); }),
                act("copy", () => blankfill.copyText(textOf(nodes), context.notify)),
                blankfill.insideButton(() => ({ model: last.model, use: "complete", input: textOf(talks.path(talk, last.parent)) })));
        }
    }

    const textOf = (nodes) => talks.parts(nodes).map(([text]) => text).join("");

    panel({ id: "write", order: 30, title: "write", abilities: ["complete"], render });
})();
