/* The panel Embed: texts as vectors; which are alike, a map of them, and search in one's own lines. */
"use strict";
(() => {
    const { el, fill, t, texts, panel, saved, textarea, number, bar, vectors } = blankfill;
    const MOST_LINES = 20_000;
    const MOST_PAIRED = 2000; // lines among which pairs are sought
    const MOST_POINTS = 2000; // lines on the map
    const MOST_TYPED = 200_000; // characters of a file that go into the field
    const MOST_BYTES = 50_000_000;
    const [PAIRS, HITS, NEAR] = [20, 20, 5];

    texts({
        en: {
            "embed": "Embed",
            "embed.run": "Compare",
            "embed.lines": "Lines",
            "embed.placeholder": "One text on each line. An empty line begins a new group, with a colour of its own.",
            "embed.file": "Open a file",
            "embed.file.hint": "A file is read by the browser; only its lines go to the server, as texts.",
            "embed.file.name": "{name}: {count} {count:line|lines}",
            "embed.file.close": "Close the file",
            "embed.file.large": "{name} is too large; open a text file of at most {most} MB.",
            "embed.file.cut": "{name} has {count} lines; the first {most} are used.",
            "embed.cut": "Cut lines that are too long for the model",
            "embed.empty": "Paste some lines: see which of them are alike, look at them on a map, and search in them by meaning.",
            "embed.example": "Try an example",
            "embed.example.lines": "The boat left the harbour at dawn.\nA ship sailed out early in the morning.\nThe sea was calm and grey.\n\nShe baked bread in the kitchen.\nThe oven was hot, and the cake was sweet.\nSoup is best with fresh bread.\n\nThe court heard the case on Monday.\nThe judge listened to both lawyers.",
            "embed.none": "Write at least two lines, or open a file.",
            "embed.progress": "{done} of {all} {all:line|lines}",
            "embed.batch": "Lines {first} to {last}: {error}",
            "embed.map": "Map",
            "embed.map.hint": "Similar lines are near each other, as far as two dimensions can show it.",
            "embed.map.some": "{shown} of {count} lines are drawn, evenly spaced.",
            "embed.map.label": "Map of {count} lines. Move with the arrow keys.",
            "embed.pairs": "Nearest pairs",
            "embed.pairs.some": "Among the first {count} lines.",
            "embed.pairs.none": "There are no two different lines.",
            "embed.pairs.one": "One",
            "embed.pairs.other": "Other",
            "embed.similarity": "Similarity",
            "embed.line": "Line {line}",
            "embed.group": "group {group}",
            "embed.near": "Nearest lines",
            "embed.search": "Search in these lines",
            "embed.search.run": "Search",
            "embed.search.placeholder": "What are you looking for?",
            "embed.search.none": "Write what you are looking for.",
            "embed.hits": "Lines by similarity",
            "embed.changed": "The lines have changed since then.",
        },
        zh: {
            "embed": "向量",
            "embed.run": "比较",
            "embed.lines": "各行文字",
            "embed.placeholder": "每行一段文字。空行之后是新的一组，颜色不同。",
            "embed.file": "打开文件",
            "embed.file.hint": "文件由浏览器读取；只有各行文字会发给服务。",
            "embed.file.name": "{name}：{count} 行",
            "embed.file.close": "关闭文件",
            "embed.file.large": "{name} 太大；请打开不超过 {most} MB 的文本文件。",
            "embed.file.cut": "{name} 有 {count} 行；使用前 {most} 行。",
            "embed.cut": "截断对模型过长的行",
            "embed.empty": "粘贴几行文字：看看哪些相似，在图上观察它们，并按意思搜索。",
            "embed.example": "试一个例子",
            "embed.example.lines": "船在黎明离开港口。\n清晨，一艘轮船驶出了海港。\n大海平静而灰暗。\n\n她在厨房里烤面包。\n烤箱很热，蛋糕很甜。\n汤配新鲜面包最好。\n\n法院星期一审理了此案。\n法官听取了双方律师的意见。",
            "embed.none": "请至少写两行，或打开一个文件。",
            "embed.progress": "{done} / {all} 行",
            "embed.batch": "第 {first} 至 {last} 行：{error}",
            "embed.map": "地图",
            "embed.map.hint": "在两个维度所能表示的范围内，相似的行彼此靠近。",
            "embed.map.some": "共 {count} 行，均匀画出 {shown} 行。",
            "embed.map.label": "{count} 行文字的地图。用方向键移动。",
            "embed.pairs": "最相似的两行",
            "embed.pairs.some": "在前 {count} 行中。",
            "embed.pairs.none": "没有两行不同的文字。",
            "embed.pairs.one": "一行",
            "embed.pairs.other": "另一行",
            "embed.similarity": "相似度",
            "embed.line": "第 {line} 行",
            "embed.group": "第 {group} 组",
            "embed.near": "最近的行",
            "embed.search": "在这些行中搜索",
            "embed.search.run": "搜索",
            "embed.search.placeholder": "你在找什么？",
            "embed.search.none": "请写出要找的内容。",
            "embed.hits": "按相似度排列的行",
            "embed.changed": "此后文字已改变。",
        },
    });

    const kept = saved("embed", { text: "", query: "", truncate: false });
    let file = null; // {name, lines} of an open file that is too large for the field
    let shown = null; // {model, lines, vectors, pairs, points} of the last comparison
    let hits = null; // {query, entries} of the last search

    /** Return the texts of lines, `{text, line, group}` each; an empty line begins a group. */
    function linesOf(all) {
        const made = [];
        let [group, gap] = [0, false];
        all.forEach((text, index) => {
            if (!text.trim()) gap = true;
            else {
                if (gap && made.length) group += 1;
                gap = false;
                made.push({ text: text.trim(), line: index + 1, group });
            }
        });
        return made;
    }

    const similarity = (value) => number(value, { minimumFractionDigits: 3, maximumFractionDigits: 3 });

    function render(root, context) {
        const progress = el("progress", { max: 1, hidden: true, "aria-label": t("running") });
        const counted = el("span", { class: "hint" });
        const result = el("div", { class: "result stack" });
        const runner = blankfill.runner(compare, { label: t("embed.run") });
        const searcher = blankfill.runner(search, { label: t("embed.search.run") });
        const input = textarea(kept.text, (text) => { kept.text = text; changed(); }, { rows: 5, placeholder: t("embed.placeholder"), "aria-label": t("embed.lines") });
        const chooser = el("input", { type: "file", accept: ".txt,.csv,.tsv,.md,.log,text/*", hidden: true, onchange: () => opened(chooser.files[0]) });
        const open = el("button", { class: "quiet", type: "button", onclick: () => chooser.click() }, t("embed.file"));
        const source = el("div", {});
        const box = el("input", { type: "checkbox", checked: kept.truncate, onchange: (event) => { kept.truncate = event.target.checked; } });
        const query = el("input", { type: "search", value: kept.query, placeholder: t("embed.search.placeholder"), "aria-label": t("embed.search"), oninput: () => { kept.query = query.value; },
            onkeydown: (event) => {
                if (event.key !== "Enter" || event.isComposing || event.keyCode === 229 || event.ctrlKey || event.metaKey) return;
                event.preventDefault();
                searcher.run();
            } });
        const found = el("div", {});
        const table = el("div", { class: "stack" });
        const stale = el("p", { class: "hint", role: "status" });
        fill(root, el("div", { class: "toolbar" }, context.modelPicker(), open, chooser, el("span", { class: "end" }, context.codeButton())), source,
            el("div", { class: "under" }, runner.node, el("label", { class: "check" }, box, t("embed.cut")), progress, counted),
            el("section", { class: "search" }, el("div", { class: "search-row" }, query, searcher.node), found), stale, result);
        drawSource();
        if (shown) draw();
        else fill(result, el("div", { class: "empty" }, el("p", {}, t("embed.empty")), el("ul", { class: "examples" }, el("li", {},
            el("button", { class: "example", type: "button", onclick: () => { closeFile(); set(t("embed.example.lines")); runner.run(); } }, t("embed.example"))))));
        if (hits) drawHits();
        return { run: () => runner.run(), stop: () => { runner.stop(); searcher.stop(); } };

        function set(text) {
            kept.text = text;
            input.setValue(text);
        }

        function closeFile() {
            file = null;
            drawSource();
        }

        function drawSource() {
            fill(source, file ? el("div", { class: "card file" }, el("span", {}, t("embed.file.name", { name: file.name, count: file.lines.length })),
                el("button", { class: "quiet", type: "button", onclick: () => { closeFile(); open.focus(); } }, t("embed.file.close")))
                : [input, el("p", { class: "hint" }, t("embed.file.hint"))]);
        }

        async function opened(one) {
            chooser.value = "";
            runner.error.clear();
            if (!one) return;
            if (one.size > MOST_BYTES) return runner.error.show(t("embed.file.large", { name: one.name, most: MOST_BYTES / 1e6 }));
            const text = await one.text();
            const all = text.split(/\r?\n/);
            const lines = linesOf(all);
            if (lines.length > MOST_LINES) runner.error.show(t("embed.file.cut", { name: one.name, count: lines.length, most: MOST_LINES }));
            if (text.length <= MOST_TYPED && lines.length <= MOST_LINES) {
                closeFile();
                set(text);
            } else {
                file = { name: one.name, lines: lines.slice(0, MOST_LINES) };
                drawSource();
            }
            changed();
        }

        function current() {
            return file?.lines ?? linesOf(kept.text.split("\n")).slice(0, MOST_LINES);
        }

        function changed() {
            if (shown) fill(stale, t("embed.changed"));
        }

        /** Return the vectors of lines, and show how far they are. */
        async function read(lines, signal) {
            const model = context.model().id;
            let done = 0;
            try {
                return await vectors.vectorsOf(model, lines.map((line) => line.text), {
                    signal, truncate: kept.truncate, onRequest: (request) => context.showCode(brief(request)),
                    progress: (count, all) => {
                        done = count;
                        progress.hidden = !all;
                        progress.max = all || 1;
                        progress.value = count;
                        fill(counted, all ? t("embed.progress", { done: count, all }) : "");
                    },
                });
            } catch (error) {
                if (lines.length > 256 && error.status >= 400) error.message = t("embed.batch", { first: done + 1, last: Math.min(lines.length, done + 256), error: error.message });
                throw error;
            } finally {
                progress.hidden = true;
                fill(counted);
            }
        }

        async function compare(signal) {
            const lines = current();
            if (lines.length < 2) throw new blankfill.ApiFailure(t("embed.none"), 422);
            const own = await read(lines, signal);
            result.classList.add("stale");
            try {
                const chosen = vectors.spread(lines.length, MOST_POINTS);
                const axes = await vectors.principalAxes(chosen.map((k) => own[k]), signal);
                const points = chosen.map((k) => {
                    const [x, y] = vectors.placed(own[k], axes);
                    return { x, y, k, text: lines[k].text, group: lines[k].group };
                });
                shown = { model: context.model().id, lines, vectors: own, pairs: null, points };
                fill(stale);
                draw();
                result.classList.remove("stale");
                const paired = lines.slice(0, MOST_PAIRED).map((line) => line.text);
                shown.pairs = await vectors.nearestPairs(own.slice(0, MOST_PAIRED), paired, Math.min(PAIRS, lines.length), signal);
                drawPairs();
            } finally {
                result.classList.remove("stale");
            }
        }

        async function search(signal) {
            const text = kept.query.trim();
            if (!text) throw new blankfill.ApiFailure(t("embed.search.none"), 422);
            const lines = current();
            if (!lines.length) throw new blankfill.ApiFailure(t("embed.none"), 422);
            const own = await read(lines, signal);
            const [wanted] = await read([{ text }], signal);
            hits = { entries: vectors.ranked(wanted, own, HITS).map(([value, k]) => [value, lines[k]]) };
            drawHits();
        }

        function drawHits() {
            fill(found, el("table", { class: "bars hits", "aria-label": t("embed.hits") }, el("tbody", {}, hits.entries.map(([value, { text, line }]) => el("tr", {},
                el("th", { scope: "row" }, text, " ", el("span", { class: "hint" }, t("embed.line", { line }))), el("td", { class: "bar-cell" }, bar(value)),
                el("td", { class: "figure" }, similarity(value)))))));
        }

        function drawPairs() {
            const { lines, pairs } = shown;
            if (!pairs) return fill(table, el("p", { class: "hint" }, t("running")));
            const cells = pairs.map(([value, i, j]) => el("tr", {}, el("td", {}, lines[i].text), el("td", {}, lines[j].text), el("td", { class: "figure" }, similarity(value))));
            const heads = ["embed.pairs.one", "embed.pairs.other", "embed.similarity"].map((key) => el("th", { scope: "col" }, t(key)));
            fill(table, lines.length > MOST_PAIRED ? el("p", { class: "hint" }, t("embed.pairs.some", { count: MOST_PAIRED })) : null,
                pairs.length ? el("table", { class: "pairs" }, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, cells)) : el("p", {}, t("embed.pairs.none")));
        }

        function draw() {
            const { lines, points } = shown;
            const info = el("div", { class: "map-info", role: "status" });
            const map = blankfill.textMap(points, { choose, width: root.clientWidth });
            const notes = [t("embed.map.hint")];
            if (points.length < lines.length) notes.push(t("embed.map.some", { shown: points.length, count: lines.length }));
            fill(result, el("section", { class: "stack" }, el("h2", {}, t("embed.map")), el("p", { class: "hint" }, notes.join(" ")), map.node, info), el("section", { class: "stack" }, el("h2", {}, t("embed.pairs")), table));
            drawPairs();

            /** Choose a point of the map; its nearest lines are found among all points. */
            function choose(k) {
                const point = points[k];
                const near = vectors.ranked(shown.vectors[point.k], points.map((other) => shown.vectors[other.k]), NEAR + 1).filter(([, other]) => other !== k).slice(0, NEAR);
                map.mark(k, near.map(([, other]) => other));
                const { line, group } = lines[point.k];
                fill(info, el("p", {}, el("strong", {}, point.text), " ", el("span", { class: "hint" }, `${t("embed.line", { line })}, ${t("embed.group", { group: group + 1 })}`), " ",
                    blankfill.insideButton(() => ({ model: shown.model, use: "embed", input: point.text }))),
                    el("p", { class: "eyebrow" }, t("embed.near")), el("ol", { class: "near" }, near.map(([value, other]) => el("li", {}, points[other].text, " ",
                        el("span", { class: "figure hint" }, similarity(value))))));
            }
        }
    }

    /** Return a request with the first few of its texts only, for the code. */
    const brief = ({ path, body }) => ({ path, body: { ...body, input: body.input.slice(0, 3), encoding_format: "float" } });

    panel({ id: "embed", order: 60, title: "embed", abilities: ["embed"], render });
})();
