/* The panel Chat: a conversation as a tree of messages, whose answers come in pieces. */
"use strict";
(() => {
    const { el, fill, t, texts, panel, saved, talks, written, textarea, field } = blankfill;

    texts({
        en: {
            "chat": "Chat",
            "chat.send": "Send",
            "chat.message": "Message",
            "chat.placeholder": "Write a message. Enter sends it, Shift+Enter begins a new line.",
            "chat.new": "New",
            "chat.empty": "Ask the model something. A model that was only pretrained continues the conversation in its own way.",
            "chat.example.1": "What is a good name for a boat?",
            "chat.example.2": "Tell me about the sea.",
            "chat.log": "Conversation",
            "chat.system": "System message",
            "chat.system.hint": "Stands before the conversation, where the model's template has a place for it.",
            "chat.truncate": "Leave out the oldest messages when the conversation is too long (truncate)",
            "chat.shorter": "Leave out the oldest messages",
            "chat.edit": "Edit",
            "chat.save": "Send again",
            "chat.cancel": "Cancel",
            "chat.again": "Again",
            "chat.copy": "Copy",
            "chat.nothing": "(nothing)",
            "chat.none": "Write a message first.",
        },
        zh: {
            "chat": "聊天",
            "chat.send": "发送",
            "chat.message": "消息",
            "chat.placeholder": "写一条消息。按 Enter 发送，Shift+Enter 换行。",
            "chat.new": "新建",
            "chat.empty": "向模型提问。只经过预训练的模型会按自己的方式把对话接下去。",
            "chat.example.1": "给一条船起个好名字。",
            "chat.example.2": "讲讲大海。",
            "chat.log": "对话",
            "chat.system": "系统消息",
            "chat.system.hint": "若模型的模板有此位置，它位于对话之前。",
            "chat.truncate": "对话太长时略去最早的消息（truncate）",
            "chat.shorter": "略去最早的消息",
            "chat.edit": "编辑",
            "chat.save": "重新发送",
            "chat.cancel": "取消",
            "chat.again": "重写",
            "chat.copy": "复制",
            "chat.nothing": "（无）",
            "chat.none": "请先写一条消息。",
        },
    });

    const kept = saved("chat", { draft: "", talk: "", truncate: false });
    let redraw = () => {}; // draws the panel that is shown now; the language may change while a model writes
    let talk = talks.reopened("chat", kept.talk);

    let writing = false;
    addEventListener("pagehide", () => { if (writing) talks.store(talk); }); // what was written so far

    function render(root, context) {
        let editing = null; // id of the message that is edited
        let live = null; // {node, body} of the answer that is being written
        let target = null; // the message that is answered next

        const settings = written.settings("chat.settings", () => draw());
        const log = el("div", { class: "log", role: "log", "aria-label": t("chat.log"), tabindex: "-1" });
        const runner = blankfill.runner(answer, { label: t("chat.send") });
        const draft = textarea(kept.draft, (text) => { kept.draft = text; }, {
            rows: 1, placeholder: t("chat.placeholder"), "aria-label": t("chat.message"), enterkeyhint: "send", onkeydown: (event) => sends(event, send),
        });
        const system = textarea(talk.system ?? "", (text) => { talk.system = text; }, { rows: 1 });
        const begin = el("button", { class: "quiet", type: "button", onclick: () => { open(talks.begin("chat")); draft.focus(); } }, t("chat.new"));
        const history = written.historyButton("chat", { open, current: () => talk, begin: () => open(talks.begin("chat")) });
        const composer = el("div", { class: "composer" }, draft, runner.node);
        const box = el("input", { type: "checkbox", checked: kept.truncate, onchange: (event) => { kept.truncate = event.target.checked; } });
        settings.more.append(el("label", { class: "check" }, box, t("chat.truncate")), field(t("chat.system"), system, t("chat.system.hint")));
        fill(root, el("div", { class: "toolbar" }, context.modelPicker(), begin, history, el("span", { class: "end" }, context.codeButton())),
            log, composer, settings.node);
        redraw = draw;
        draw();
        return { run: send, stop: () => runner.stop() };

        /** Send on Enter, but not on one that only ends the input of a word (Chinese, Japanese, …), nor with Shift. */
        function sends(event, act) {
            if (event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.metaKey || event.altKey) return;
            if (event.isComposing || event.keyCode === 229) return;
            event.preventDefault();
            act();
        }

        function open(other) {
            runner.stop();
            talk = other;
            kept.talk = talk.id;
            system.setValue(talk.system ?? "");
            editing = null;
            draw();
        }

        function send() {
            if (kept.draft.trim() || !runner.busy()) runner.run();
        }

        /** Add what stands in the field to the conversation. */
        function question() {
            const text = kept.draft.trim();
            if (!text) throw new blankfill.ApiFailure(t("chat.none"), 422);
            const last = talk.nodes[talk.leaf];
            const failed = last?.role === "assistant" && !last.text; // there is no answer to follow: ask anew
            const parent = failed ? talk.nodes[last.parent].parent : last?.role === "user" ? last.parent : (last?.id ?? null);
            draft.setValue("");
            kept.draft = "";
            return talks.add(talk, parent, "user", text);
        }

        function again(node) {
            target = talk.nodes[node.parent];
            runner.run();
        }

        /** Return the conversation up to a message, as a request has it. */
        function messagesTo(node) {
            const system = talk.system?.trim();
            const messages = talks.path(talk, node.id).map(({ role, text }) => ({ role, content: text }));
            return system ? [{ role: "system", content: system }, ...messages] : messages;
        }

        async function answer(signal) {
            const [mine, asked] = [talk, target ?? question()];
            target = null;
            const node = talks.add(mine, asked.id, "assistant", "");
            mine.model = node.model = context.model().id;
            kept.talk = mine.id;
            node.tokens = [];
            live = { node, body: null };
            writing = true;
            draw();
            written.toEnd();
            log.setAttribute("aria-busy", "true");
            try {
                const body = { model: mine.model, messages: messagesTo(asked), stream: true, ...settings.fields() };
                if (settings.probabilities) Object.assign(body, { logprobs: true, top_logprobs: 5 });
                if (kept.truncate) body.truncate = true;
                context.showCode({ path: "/v1/chat/completions", body });
                written.storeTalk(mine, context.notify);
                node.finish = await written.write("/v1/chat/completions", body, (text, tokens) => {
                    node.text += text;
                    node.tokens.push(...tokens);
                    const follows = written.atEnd();
                    if (live?.node === node && live.body) live.body.append(text);
                    if (follows) written.toEnd();
                }, signal);
                node.finish ??= "stop";
            } catch (error) {
                node.finish = error.name === "AbortError" ? "stopped" : "error";
                node.long = error.code === "context_length_exceeded";
                throw error;
            } finally {
                if (live?.node === node) {
                    live = null;
                    log.removeAttribute("aria-busy");
                }
                const follows = written.atEnd();
                written.storeTalk(mine, context.notify);
                writing = live !== null;
                if (talk === mine) redraw();
                if (follows) written.toEnd();
            }
        }

        /** Draw the conversation. focus: `[id, name]` of a control that gets the focus. */
        function draw(focus = null) {
            const nodes = talks.path(talk);
            log.classList.toggle("bare", nodes.length === 0);
            fill(log, nodes.length ? nodes.map(message) : blankfill.empty(t("chat.empty"),
                [1, 2].map((k) => ({ text: t(`chat.example.${k}`), use: () => { draft.setValue(t(`chat.example.${k}`)); kept.draft = draft.value; draft.focus(); } }))));
            if (focus) log.querySelector(`[data-node="${focus[0]}"] ${focus[1]}`)?.focus();
        }

        function message(node) {
            const mine = node.role === "user";
            const head = el("h2", { class: "eyebrow" }, mine ? t("talks.you") : (node.model || t("talks.model")));
            const article = el("article", { class: `message ${node.role}`, dataset: { node: node.id } }, head);
            if (editing === node.id) article.append(editor(node));
            else {
                const shown = settings.probabilities && node.tokens?.length && live?.node !== node;
                const body = shown ? written.tokenView(node.tokens) : el("div", { class: "said" }, node.text);
                if (live?.node === node) live.body = body;
                else if (!node.text && node.finish === "stop") body.append(el("span", { class: "hint" }, t("chat.nothing")));
                const sentence = written.finishOf(node);
                article.append(body, ...(sentence ? [el("p", { class: "hint" }, sentence)] : []), actions(node, mine));
            }
            return article;
        }

        function actions(node, mine) {
            if (live?.node === node) return el("div", { class: "acts" });
            const act = (key, onclick, name) => el("button", { class: "quiet", type: "button", onclick, dataset: { act: name } }, t(key));
            const shown = written.versionSwitch(talk, node, (other) => {
                const sign = document.activeElement?.dataset.version ?? "›";
                runner.stop();
                talks.show(talk, other);
                written.storeTalk(talk, context.notify);
                draw([other.id, `[data-version="${sign}"]:not(:disabled), [data-version]:not(:disabled)`]);
            });
            const own = mine
                ? [act("chat.edit", () => { editing = node.id; draw([node.id, "textarea"]); }, "edit")]
                : [node.long ? act("chat.shorter", () => { kept.truncate = box.checked = true; again(node); }, "shorter") : null, act("chat.again", () => again(node), "again"), act("chat.copy", () => blankfill.copyText(node.text, context.notify), "copy"), blankfill.insideButton(() => (
                    { model: node.model, use: "chat", input: messagesTo(talk.nodes[node.parent]) }))];
            return el("div", { class: "acts" }, shown, own);
        }

        function editor(node) {
            const close = () => { editing = null; draw([node.id, "[data-act=edit]"]); };
            const save = () => {
                const text = input.value.trim();
                if (!text) return;
                editing = null;
                target = talks.add(talk, node.parent, "user", text);
                runner.run();
            };
            const input = textarea(node.text, () => {}, { rows: 1, "aria-label": t("chat.message"), onkeydown: (event) => {
                if (event.key === "Escape" && !event.isComposing) {
                    event.preventDefault();
                    event.stopPropagation();
                    close();
                } else sends(event, save);
            } });
            return el("div", { class: "stack" }, input, el("div", { class: "acts" },
                el("button", { class: "primary", type: "button", onclick: save }, t("chat.save")),
                el("button", { class: "quiet", type: "button", onclick: close }, t("chat.cancel"))));
        }
    }

    panel({ id: "chat", order: 40, title: "chat", abilities: ["chat"], render });
})();
