/* The map of texts: points in a plane, to be explored by pointer and arrow keys. */
"use strict";
(() => {
    const { el, svg, t } = blankfill;
    const [WIDEST, NARROWEST, EDGE] = [1000, 260, 26]; // pixels
    const COLOURS = 8;
    const MOST_NAMES = 60;
    const LETTER = 6.3; // width of a letter of a name

    const short = (text) => (text.length > 26 ? `${text.slice(0, 25)}…` : text);
    const wide = (text) => [...text].reduce((sum, letter) => sum + (letter.codePointAt(0) > 0x2e7f ? 2 : 1), 0) * LETTER;

    /**
     * Return the map of points, `{node, mark(k, near)}`. points: `{x, y, text, group}`. choose(k) is called for a point that
     * is pointed at or to which the arrow keys have moved. width: of the place for the map, in pixels.
     */
    blankfill.textMap = function textMap(points, { choose, width }) {
        const WIDTH = Math.max(NARROWEST, Math.min(WIDEST, width));
        const HEIGHT = Math.max(300, Math.round(WIDTH * 0.55));
        const [xs, ys] = [points.map((point) => point.x), points.map((point) => point.y)];
        const scale = (values, size) => {
            const [low, high] = [Math.min(...values), Math.max(...values)];
            return (value) => (high > low ? EDGE + ((value - low) / (high - low)) * (size - 2 * EDGE) : size / 2);
        };
        const [toX, toY] = [scale(xs, WIDTH), scale(ys, HEIGHT)];
        const at = points.map((point) => [toX(point.x), HEIGHT - toY(point.y)]);
        const radius = points.length > 500 ? 3 : points.length > 100 ? 4 : 5.5;
        const dots = points.map((point, k) => svg("circle", { class: `dot g${point.group % COLOURS}`, cx: at[k][0], cy: at[k][1], r: radius }));
        const ring = svg("circle", { class: "ring", r: radius + 5, visibility: "hidden" });
        const rays = svg("g", { class: "rays" });
        const node = svg("svg", {
            class: "map", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: "0", role: "application", "aria-label": t("embed.map.label", { count: points.length }),
            onkeydown: move, onfocus: () => choose(chosen), onpointermove: point, onpointerdown: point,
        }, svg("rect", { class: "ground", width: WIDTH, height: HEIGHT, rx: 8 }), rays, dots, names(), ring);
        let chosen = 0;

        /** Return the names of points that have room beside them. */
        function names() {
            const taken = at.map(([x, y]) => [x - radius, y - radius, x + radius, y + radius]);
            const free = (box) => box[0] > 2 && box[2] < WIDTH - 2 && taken.every((other) => box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3]);
            const made = [];
            for (let k = 0; k < points.length && made.length < MOST_NAMES; k += 1) {
                const [x, y] = at[k];
                const text = short(points[k].text);
                const size = wide(text);
                for (const [begin, anchor] of [[x + radius + 4, "start"], [x - radius - 4 - size, "end"]]) {
                    const box = [begin, y - 8, begin + size, y + 8];
                    if (!free(box)) continue;
                    taken.push(box);
                    made.push(svg("text", { class: "name", x: anchor === "start" ? begin : begin + size, y: y + 4, "text-anchor": anchor }, text));
                    break;
                }
            }
            return made;
        }

        function point(event) {
            const frame = node.getBoundingClientRect();
            const [x, y] = [((event.clientX - frame.left) * WIDTH) / frame.width, ((event.clientY - frame.top) * HEIGHT) / frame.height];
            const far = at.map(([a, b]) => (a - x) ** 2 + (b - y) ** 2);
            const nearest = far.indexOf(Math.min(...far));
            if (far[nearest] < 30 ** 2 && nearest !== chosen) choose(nearest);
        }

        /** Move to the nearest point in the direction of an arrow key. */
        function move(event) {
            const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
            const end = { Home: 0, End: points.length - 1 }[event.key];
            if (!way && end === undefined) return;
            event.preventDefault();
            if (end !== undefined) return choose(end);
            let [best, least] = [chosen, Infinity];
            at.forEach(([x, y], k) => {
                const [dx, dy] = [x - at[chosen][0], y - at[chosen][1]];
                const [along, aside] = [dx * way[0] + dy * way[1], Math.abs(dx * way[1]) + Math.abs(dy * way[0])];
                const cost = along + 2 * aside;
                if (k !== chosen && along > 0.01 && cost < least) [best, least] = [k, cost];
            });
            choose(best);
        }

        /** Mark a point, and draw lines to others. */
        function mark(k, near) {
            chosen = k;
            ring.setAttribute("cx", at[k][0]);
            ring.setAttribute("cy", at[k][1]);
            ring.setAttribute("visibility", "visible");
            rays.replaceChildren(...near.map((other) => svg("path", { d: `M${at[k].join(" ")}L${at[other].join(" ")}` })));
            dots.forEach((dot, other) => dot.classList.toggle("near", near.includes(other)));
        }

        return { node: el("div", { class: "map-frame" }, node), mark };
    };
})();
