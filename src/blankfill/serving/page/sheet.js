/* The sheet of the Fill panel: a text whose words are buttons. A click blanks a word or restores it; dragging, or Shift
 * with the arrow keys, takes in several for one blank. */
"use strict";
(() => {
    const { el, fill, t } = blankfill;

    /**
     * Return a sheet, `{node, show(parts, textOf)}`.
     *
     * toggle(start, end): called with a range of the text to blank or to restore. lengthen(blank, step): called for + and −.
     * describe(blank): the text that stood in a blank. parts: those of `blanked.parts`. textOf(blank): the text to show in a
     * blank, or null.
     */
    function sheet({ toggle, lengthen, describe }) {
        const hint = el("p", { class: "hint", id: blankfill.uid("hint") }, t("fill.words"), el("span", { class: "sr-only" }, ` ${t("fill.words.keys")}`));
        const words = el("div", { class: "sheet prose", role: "group", "aria-label": t("fill.text"), "aria-describedby": hint.id });
        const node = el("div", { class: "sheet-box" }, hint, words);
        let parts = [];
        let buttons = []; // of the parts that can be chosen, in order
        let place = 0; // of the button in the order of the Tab key
        let anchor = null; // first button of a selection
        let dragged = false;

        function show(given, textOf) {
            const within = words.contains(document.activeElement);
            parts = given.filter((part) => !part.space);
            let number = 0;
            buttons = [];
            node.hidden = !given.length;
            fill(words, lines(given).map((group) => (group.length === 1 && group[0].space ? group[0].text : el("span", { class: "together" }, group.map((part) => {
                const button = part.blank ? blankButton(part.blank, ++number, textOf(part.blank)) : el("button", { type: "button", class: "word", "aria-pressed": "false" }, part.text);
                buttons.push(button);
                return button;
            })))));
            place = Math.max(0, Math.min(place, buttons.length - 1));
            buttons.forEach((button, index) => { button.tabIndex = index === place ? 0 : -1; });
            if (within) buttons[place]?.focus({ preventScroll: true });
            anchor = null;
        }

        /** Group parts that stay in one line: a mark that closes with what is before it, and one that opens with what follows. */
        function lines(given) {
            const groups = [];
            for (const part of given) {
                const last = groups.at(-1);
                const joins = last && !part.space && !last.at(-1).space
                    && (/^[\p{Pe}\p{Pf}\p{Po}]/u.test(part.text ?? "") || /^[\p{Ps}\p{Pi}]/u.test(last.at(-1).text ?? "")) && last.length < 6;
                if (joins) last.push(part);
                else groups.push([part]);
            }
            return groups;
        }

        function blankButton(blank, number, text) {
            const was = describe(blank);
            const state = blank.fixed !== null ? "fixed" : text === null ? "open" : "guessed";
            return el("button", { type: "button", class: `word gap-word ${state}`, "aria-pressed": "true", title: was },
                el("span", { class: "gap-text" }, text === null ? "\u00a0".repeat(Math.max(4, Math.min(12, was.length))) : text.trim() || "∅"),
                el("span", { class: "sr-only" }, t("fill.blanked", { number, word: was })), el("sup", { "aria-hidden": "true" }, number));
        }

        /** Go to a button. extend: keep what is selected and take in those between. */
        function go(to, extend) {
            const next = Math.max(0, Math.min(buttons.length - 1, to));
            if (extend) anchor ??= place;
            else anchor = null;
            buttons[place].tabIndex = -1;
            place = next;
            buttons[place].tabIndex = 0;
            buttons[place].focus();
            mark();
        }

        /** Mark the selected buttons. */
        function mark() {
            const [first, last] = range();
            buttons.forEach((button, index) => button.classList.toggle("taken", anchor !== null && index >= first && index <= last));
        }

        const range = () => (anchor === null ? [place, place] : [Math.min(anchor, place), Math.max(anchor, place)]);

        function use() {
            const [first, last] = range();
            place = first;
            toggle(parts[first].start, parts[last].end);
        }

        /** Return the button above or below another, the nearest in its line. */
        function beside(index, direction) {
            const box = buttons[index].getBoundingClientRect();
            const middle = box.left + box.width / 2;
            let best = index;
            let least = Infinity;
            buttons.forEach((button, other) => {
                const seen = button.getBoundingClientRect();
                const lines = (seen.top - box.top) * direction;
                if (lines < box.height / 2) return;
                const distance = lines * 10 + Math.abs(seen.left + seen.width / 2 - middle);
                if (distance < least) [least, best] = [distance, other];
            });
            return best;
        }

        words.addEventListener("keydown", (event) => {
            if (event.ctrlKey || event.metaKey || event.altKey || !buttons.length) return;
            const { key } = event;
            const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: buttons.length - 1 }[key]
                ?? (key === "ArrowDown" ? beside(place, 1) : key === "ArrowUp" ? beside(place, -1) : null);
            if (to !== null) go(to, event.shiftKey);
            else if (key === " " || key === "Enter") use();
            else if ((key === "+" || key === "=" || key === "-" || key === "−") && parts[place].blank) lengthen(parts[place].blank, key === "+" || key === "=" ? 1 : -1);
            else if (key === "Escape" && anchor !== null) { anchor = null; mark(); } else return;
            event.preventDefault();
        });

        // A drag starts at a button and ends at another; the finger may scroll the page up and down meanwhile.
        words.addEventListener("pointerdown", (event) => {
            const at = buttons.indexOf(event.target.closest("button"));
            if (at < 0 || event.button) return;
            dragged = true;
            anchor = event.shiftKey ? anchor ?? place : at;
            place = at;
            event.target.closest("button").releasePointerCapture?.(event.pointerId);
        });
        words.addEventListener("pointermove", (event) => {
            if (!dragged) return;
            const at = buttons.indexOf(document.elementFromPoint(event.clientX, event.clientY)?.closest("button"));
            if (at < 0 || at === place) return;
            place = at;
            mark();
        });
        words.addEventListener("click", (event) => { // of a screen reader; those of a pointer come with pointer events
            const at = buttons.indexOf(event.target.closest("button"));
            if (at < 0 || event.detail) return;
            place = at;
            anchor = null;
            use();
        });
        addEventListener("pointerup", () => {
            if (!dragged) return;
            dragged = false;
            use();
        });
        addEventListener("pointercancel", () => { dragged = false; anchor = null; mark(); });

        return { node, show };
    }

    blankfill.sheet = sheet;
})();
