/* The picture of the attention: a square whose lines are queries and whose columns are keys, to be explored by pointer and
 * arrow keys. */
"use strict";
(() => {
    const { el, svg, t } = blankfill;
    const WIDEST = 720; // of the cells, in pixels
    const MOST_WORDS = 48; // largest number of columns whose words stand beside the square
    const LETTER = 7.4;

    const short = (token) => (token.length > 12 ? `${token.slice(0, 11)}…` : token);

    /** Return the path of the cells that are on, neighbours in a line as one rectangle. */
    function runs(lines, margin, cell, on) {
        const gap = cell >= 6 ? 0.7 : 0;
        let path = "";
        lines.forEach((line, i) => {
            for (let j = 0; j < line.length; j += 1) {
                if (!(line[j] === "1" && on(i, j))) continue;
                const begin = j;
                while (line[j + 1] === "1" && on(i, j + 1)) j += 1;
                path += `M${margin + cell * begin} ${margin + cell * i}h${cell * (j + 1 - begin) - gap}v${cell - gap}h${gap - cell * (j + 1 - begin)}z`;
            }
        });
        return path;
    }

    /**
     * Return the square of a row: `{node, mark(query, key), show(lines)}`. choose(query, key) is called for the pair under
     * the pointer, or to which the arrow keys have moved; key is null beside the square.
     */
    blankfill.attentionSquare = function attentionSquare(row, { choose }) {
        const { columns } = row;
        const length = columns.length;
        const cell = Math.min(24, Math.max(4, WIDEST / length));
        const words = columns.map((column) => short(column.token));
        const named = length <= MOST_WORDS;
        const wide = (word) => [...word].reduce((sum, letter) => sum + (letter.codePointAt(0) > 0x2e7f ? 2 : 1), 0);
        const margin = named ? 10 + LETTER * Math.max(...words.map(wide)) : 30;
        const side = margin + cell * length + 2;
        const size = named ? Math.min(11.5, Math.max(7, cell * 0.62)) : 10;
        const cross = (i, j) => columns[i].side === "decoder" && columns[j].side === "encoder";
        const [own, across] = [svg("path", { class: "sees" }), svg("path", { class: "across" })];
        const marks = svg("g", { class: "marks" });
        const labels = columns.flatMap((_, k) => {
            if (!named && k % Math.ceil(length / 16)) return [];
            const at = margin + cell * (k + 0.5) + size * 0.35;
            const text = named ? words[k] : String(columns[k].column);
            return [svg("text", { x: margin - 5, y: at, "text-anchor": "end", "font-size": size, "data-k": k }, text),
                svg("text", { transform: `translate(${at} ${margin - 5}) rotate(-90)`, "font-size": size, "data-k": k }, text)];
        });
        const border = columns.findIndex((column) => column.side === "decoder");
        const line = margin + cell * border;
        const node = svg("svg", {
            class: "attention", viewBox: `0 0 ${side} ${side}`, width: side, height: side, tabindex: "0", role: "application",
            onpointermove: point, onpointerdown: point, onkeydown: move,
        }, svg("rect", { class: "ground", x: margin, y: margin, width: cell * length, height: cell * length }), own, across,
            border > 0 ? svg("path", { class: "edge", d: `M${margin} ${line}H${side}M${line} ${margin}V${side}` }) : null, labels, marks);
        let [query, key] = [0, 0];

        function point(event) {
            const frame = node.getBoundingClientRect();
            const at = [event.clientY - frame.top, event.clientX - frame.left].map((far) => Math.floor(((far * side) / frame.width - margin) / cell));
            if (at.some((k) => k >= length) || at.every((k) => k < 0)) return;
            [query, key] = [at[0] < 0 ? at[1] : at[0], at[0] < 0 || at[1] < 0 ? null : at[1]];
            choose(query, key);
        }

        function move(event) {
            const step = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key];
            if (!step) return;
            event.preventDefault();
            const inside = (k) => Math.max(0, Math.min(length - 1, k));
            [query, key] = [inside(query + step[0]), inside((key ?? 0) + step[1])];
            choose(query, key);
        }

        function box(x, y, width, height, name) {
            return svg("rect", { class: name, x: margin + cell * x, y: margin + cell * y, width: cell * width, height: cell * height });
        }

        /** Mark the line and the column of a query, and a pair. */
        function mark(k, other) {
            query = k;
            if (other !== null) key = other;
            marks.replaceChildren(box(0, k, length, 1, "line"), other === null ? box(k, 0, 1, length, "line") : box(other, 0, 1, length, "line"),
                ...(other === null ? [] : [box(other, k, 1, 1, "pair")]));
            for (const label of labels) label.classList.toggle("on", [k, other].includes(Number(label.dataset.k)));
        }

        function show(lines) {
            own.setAttribute("d", runs(lines, margin, cell, (i, j) => !cross(i, j)));
            across.setAttribute("d", runs(lines, margin, cell, cross));
            const seen = lines.reduce((sum, one) => sum + [...one].filter((bit) => bit === "1").length, 0);
            node.setAttribute("aria-label", t("inside.square", { seen, all: length * length }));
        }

        show(row.sees);
        return { node: el("div", { class: "square" }, node), mark, show };
    };
})();
