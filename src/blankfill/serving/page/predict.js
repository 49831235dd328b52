/* The Predict panel: what a fine-tuned model says about texts. It follows the model's task: classes, several labels, a
 * number, the right one of some choices, the entities of a text, or the answer to a question.
 *
 * Not here: how predictions are drawn (`predictions.js`).
 */
"use strict";
(() => {
    const { el, fill, t, texts, panel, saved, api, runner, textarea, empty, field, TEXTS, predictions } = blankfill;

    const PATHS = { classify: "/v1/classify", tag: "/v1/tag", answer: "/v1/answer" };
    const KINDS = { classify: "classify", tag: "tag", answer: "answer" }; // of a model that does not say its task
    const FIELDS = { classify: ["text", "second"], regress: ["text", "second"], multilabel: ["text", "second"], choice: ["context", "choices"],
        tag: ["text"], answer: ["question", "context"] };
    const LISTS = new Set(["choices", "answers", "entities"]); // fields with a list of texts, a line each
    const SHORT = new Set(["question", "word", "span1", "span2"]);
    const PAIRS = new Set(["mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]); // tasks about two texts
    const EXPLAINS = new Set(["classify", "regress", "multilabel", "choice"]);

    const MOST_WORDS = 200; // of texts whose words are explained, as the server limits it
    const WORD = /[\u2e80-\u9fff\uf900-\uffef\u{20000}-\u{3ffff}]|[^\s\u2e80-\u9fff\uf900-\uffef\u{20000}-\u{3ffff}]+/gu;

    const input = saved("predict", { values: {}, explain: true, truncate: false, unknown: false, second: false });
    let last = null; // {model, kind, values, row} of the last answer

    panel({ id: "predict", order: 30, title: "predict.title", abilities: ["classify", "tag", "answer"], render });

    /** Return what a model predicts: the ability, the kind of its task, its fields and its labels. */
    function taskOf(model) {
        const ability = Object.keys(PATHS).find((name) => model.abilities.includes(name));
        const kind = model.task?.kind ?? KINDS[ability];
        const known = model.task?.fields ?? [];
        const fields = kind === "tag" ? ["text"] : known.length ? known : FIELDS[kind] ?? ["text"];
        return { ability, kind, fields, name: model.task?.name ?? "", labels: model.task?.labels ?? [] };
    }

    function render(root, context) {
        const about = el("p", { class: "hint about" });
        const fields = el("div", { class: "stack" });
        const run = runner(work);
        const result = el("div", { class: "result" });
        const explain = check("explain", "predict.explain");
        explain.classList.add("end");
        const options = el("details", { class: "settings" }, el("summary", {}, t("predict.settings")),
            el("div", { class: "stack" }, check("truncate", "predict.truncate"), check("unknown", "predict.unknown")));
        const start = el("div", {});

        fill(root, el("div", { class: "toolbar" }, context.modelPicker(), el("span", { class: "end" }, context.codeButton(), blankfill.insideButton(context.lastRequest))), about,
            el("div", { class: "stack" }, fields, run.node, start, result, options));
        run.node.append(explain);
        context.onModelChange(modelChanged);
        modelChanged();

        function check(name, key) {
            return el("label", { class: "check" }, el("input", { type: "checkbox", checked: input[name], onchange: (event) => { input[name] = event.target.checked; } }), t(key));
        }

        // ---- Inputs

        function modelChanged() {
            const model = context.model();
            if (!model) return;
            const task = taskOf(model);
            if (last?.model !== model.id) last = null;
            fill(about, described(task));
            explain.hidden = !EXPLAINS.has(task.kind);
            drawFields(task);
            show();
        }

        /** Return a sentence about a task. */
        function described({ kind, labels: given }) {
            const types = given.filter((label) => label !== "O").map((label) => label.replace(/^[BIES]-/, ""));
            const labels = kind === "tag" ? [...new Set(types)] : given;
            const shown = labels.slice(0, 8).join(", ") + (labels.length > 8 ? " …" : "");
            return t(`predict.about.${kind}`, { labels: shown }) + (labels.length && kind !== "regress" ? ` ${t("predict.labels", { labels: shown })}` : "");
        }

        function drawFields(task) {
            const second = task.fields.includes("second") && (input.second || PAIRS.has(task.name) || Boolean(input.values.second));
            const shown = task.fields.filter((name) => name !== "second" || second);
            const more = task.fields.includes("second") && !second
                ? el("button", { type: "button", class: "quiet start", onclick: () => {
                    input.second = true;
                    drawFields(task);
                    fields.querySelector("textarea:last-of-type, .field:last-child textarea")?.focus();
                } }, t("predict.add-second")) : null;
            fill(fields, shown.map((name) => fieldFor(name)), more);
        }

        function fieldFor(name) {
            const set = (value) => {
                input.values = { ...input.values, [name]: value };
                run.error.clear();
                show();
            };
            const hint = LISTS.has(name) ? t("predict.lines") : null;
            return field(labelOf(name), textarea(input.values[name] ?? "", set, { class: "prose", rows: SHORT.has(name) ? 1 : 2 }), hint);
        }

        function useExample(values) {
            input.values = { ...input.values, second: "", ...values };
            input.second = Boolean(values.second);
            drawFields(taskOf(context.model()));
            run.run();
        }

        // ---- Requests

        /** Return the input of the request: a text where the task is about one, else an object with its fields. */
        function inputOf(task) {
            const values = {};
            for (const name of task.fields) {
                const text = (input.values[name] ?? "").trim();
                if (LISTS.has(name)) values[name] = text.split("\n").map((line) => line.trim()).filter(Boolean);
                else if (text || name !== "second") values[name] = text;
            }
            const names = Object.keys(values);
            return names.length === 1 && names[0] === "text" ? values.text : values;
        }

        async function work(signal) {
            const model = context.model();
            const task = taskOf(model);
            const lacking = task.fields.find((name) => name !== "second" && !(input.values[name] ?? "").trim());
            if (lacking) throw new Error(t("predict.lacking", { field: labelOf(lacking) }));
            const given = inputOf(task);
            const body = { model: model.id, input: given };
            const long = Object.values(typeof given === "string" ? [given] : given).flat().join(" ").match(WORD).length > MOST_WORDS;
            const explains = EXPLAINS.has(task.kind) && input.explain;
            if (explains && !long) body.explain = true;
            if (input.truncate) body.truncate = true;
            if (input.unknown) body.allow_unknown = true;
            context.showCode({ path: PATHS[task.ability], body });
            result.classList.add("stale");
            try {
                const answer = await api(PATHS[task.ability], body, { signal });
                const values = typeof given === "string" ? { text: given } : given;
                last = { model: model.id, task, values, row: answer.data[0], key: JSON.stringify(given), long: explains && long };
            } finally {
                show();
            }
            return result.querySelector(".verdict")?.textContent ?? result.querySelector(".sr-only, p")?.textContent;
        }

        // ---- What is shown

        function show() {
            const task = taskOf(context.model());
            start.hidden = filled(task) || last !== null;
            if (!start.hidden) fill(start, empty(t(`predict.empty.${task.kind}`), examplesOf(task)));
            result.classList.toggle("stale", last !== null && last.key !== JSON.stringify(inputOf(task)));
            if (last === null) fill(result);
            else if (result.shown !== last) fill(result, predictions(last), last.long ? el("p", { class: "hint" }, t("predict.long", { count: MOST_WORDS })) : null);
            result.shown = last;
        }

        function examplesOf(task) {
            return examples(task.kind, task.fields).map((values) => ({ text: values.text ?? values.question ?? values.context, use: () => useExample(values) }));
        }

        return { run: run.run, stop: run.stop };
    }

    const filled = (task) => task.fields.some((name) => (input.values[name] ?? "").trim());

    /** Return the name of a field as a label; that of the request where the page has none. */
    const labelOf = (name) => (`predict.field.${name}` in TEXTS.en ? t(`predict.field.${name}`) : name);

    /** Return values to try for a kind of task; none for a task with fields of its own. */
    function examples(kind, fields) {
        const usable = (values) => Object.keys(values).every((name) => fields.includes(name));
        const rows = { classify: "texts", regress: "texts", multilabel: "texts", tag: "names", answer: "questions", choice: "choices" }[kind];
        return t(`predict.examples.${rows}`).split("\n").map((line) => {
            const [first, second, third] = line.split(" | ");
            if (rows === "questions") return { question: first, context: second };
            if (rows === "choices") return { context: first, choices: [second, third].join("\n") };
            return { text: first };
        }).filter(usable);
    }

    texts({
        en: {
            "predict.title": "Predict",
            "predict.settings": "Settings",
            "predict.explain": "What each word contributes",
            "predict.long": "What each word contributes is shown for texts of at most {count} words.",
            "predict.truncate": "Leave out the end of texts that are too long",
            "predict.unknown": "Also read texts with many words that the model does not know",
            "predict.about.classify": "Chooses a class for a text.",
            "predict.about.multilabel": "Chooses any number of labels for a text.",
            "predict.about.regress": "Gives a text a number.",
            "predict.about.choice": "Chooses the choice that fits its context.",
            "predict.about.tag": "Finds entities in a text.",
            "predict.about.answer": "Answers a question by a part of a text.",
            "predict.labels": "Labels: {labels}.",
            "predict.empty.classify": "Write a text; the model says to which class it belongs.",
            "predict.empty.multilabel": "Write a text; the model says which labels it has.",
            "predict.empty.regress": "Write a text, or two to compare; the model gives a number.",
            "predict.empty.choice": "Write a context and some choices; the model says which one fits.",
            "predict.empty.tag": "Write a text; the model marks the entities in it.",
            "predict.empty.answer": "Write a question and a text that has the answer; the model marks it.",
            "predict.add-second": "+ Second text",
            "predict.lines": "One on each line.",
            "predict.lacking": "{field} is empty; write it first.",
            "predict.field.text": "Text",
            "predict.field.second": "Second text",
            "predict.field.question": "Question",
            "predict.field.context": "Context",
            "predict.field.choices": "Choices",
            "predict.field.passage": "Passage",
            "predict.field.premise": "Premise",
            "predict.field.hypothesis": "Hypothesis",
            "predict.field.sentence": "Text",
            "predict.field.sentence1": "First text",
            "predict.field.sentence2": "Second text",
            "predict.field.answers": "Answers",
            "predict.examples.texts": "A quiet film that stays with you for days.\nThe plot makes no sense, and the jokes are worse.\n这家酒店的房间很干净，服务也很周到。",
            "predict.examples.names": "Maria Lindgren left Oslo in May to work for the Red Cross in Kenya.\n张伟上个月从北京去了上海。",
            "predict.examples.questions": "Where did the ship wait for the storm to pass? | The ship left Bergen on Monday. It waited in a small bay near Stavanger for the storm to pass, and reached Hull four days later.\n图书馆什么时候开门？ | 镇上的图书馆在河边，每天早上九点开门，下午六点关门。",
            "predict.examples.choices": "The street was wet in the morning. | It had rained at night. | The shop was closed.",
        },
        zh: {
            "predict.title": "预测",
            "predict.settings": "设置",
            "predict.explain": "每个词的作用",
            "predict.long": "不超过 {count} 个词的文本才显示每个词的作用。",
            "predict.truncate": "文本过长时略去结尾",
            "predict.unknown": "即使许多词模型不认识，也进行预测",
            "predict.about.classify": "判断文本属于哪一类。",
            "predict.about.multilabel": "为文本选择任意多个标签。",
            "predict.about.regress": "给文本一个数值。",
            "predict.about.choice": "选出适合上下文的选项。",
            "predict.about.tag": "找出文本中的实体。",
            "predict.about.answer": "用文本中的一段回答问题。",
            "predict.labels": "标签：{labels}。",
            "predict.empty.classify": "写一段文本，模型会说出它属于哪一类。",
            "predict.empty.multilabel": "写一段文本，模型会说出它有哪些标签。",
            "predict.empty.regress": "写一段文本，或写两段来比较，模型会给出一个数值。",
            "predict.empty.choice": "写上下文和几个选项，模型会说出哪个合适。",
            "predict.empty.tag": "写一段文本，模型会标出其中的实体。",
            "predict.empty.answer": "写一个问题和含有答案的文本，模型会标出答案。",
            "predict.add-second": "+ 第二段文本",
            "predict.lines": "每行一个。",
            "predict.lacking": "“{field}”是空的；请先填写。",
            "predict.field.text": "文本",
            "predict.field.second": "第二段文本",
            "predict.field.question": "问题",
            "predict.field.context": "上下文",
            "predict.field.choices": "选项",
            "predict.field.passage": "段落",
            "predict.field.premise": "前提",
            "predict.field.hypothesis": "假设",
            "predict.field.sentence": "文本",
            "predict.field.sentence1": "第一段文本",
            "predict.field.sentence2": "第二段文本",
            "predict.field.answers": "答案",
            "predict.examples.texts": "这家酒店的房间很干净，服务也很周到。\n等了一个小时，菜还是凉的。\nA quiet film that stays with you for days.",
            "predict.examples.names": "张伟上个月从北京去了上海。\nMaria Lindgren left Oslo in May to work for the Red Cross in Kenya.",
            "predict.examples.questions": "图书馆什么时候开门？ | 镇上的图书馆在河边，每天早上九点开门，下午六点关门。\nWhere did the ship wait for the storm to pass? | The ship left Bergen on Monday. It waited in a small bay near Stavanger for the storm to pass, and reached Hull four days later.",
            "predict.examples.choices": "早上街道是湿的。 | 夜里下过雨。 | 商店关门了。",
        },
    });
})();
