/* A text with blanks as the Fill panel edits it: words that can be blanked, and blanks that follow the text when it is
 * edited. Without elements of the page.
 *
 * A blank is {id, start, end, length, fixed, typed}: a half-open range of the text (UTF-16 units, as JavaScript counts),
 * a number of tokens or null, the text that was chosen for it or null, and whether the user typed it as [MASK] or ____.
 */
"use strict";
(() => {
    const TYPED = /\[(?:mask|blank|gmask|smask)(?::(\d+))?\]|<mask(?::(\d+))?>|<extra_id_\d+>|_{3,}/giu;
    const ALONE = String.raw`[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]`; // scripts without spaces
    const LETTER = String.raw`(?:(?!${ALONE})[\p{L}\p{M}\p{N}])`;
    const PIECE = new RegExp(`${ALONE}|${LETTER}+(?:['’-]${LETTER}+)*|\\s+|.`, "gu");

    let lastId = 0;
    const nextId = (blanks) => (lastId = Math.max(lastId, ...blanks.map((blank) => blank.id)) + 1);

    /** Cut a text into pieces, `{start, end, space}`: words, marks, spaces; Han characters and kana are alone. */
    function pieces(text) {
        return [...text.matchAll(PIECE)].map((match) =>
            ({ start: match.index, end: match.index + match[0].length, space: /^\s/.test(match[0]) }));
    }

    /** Return the blanks after an edit of the text: those beside it move with their words, and those in it end. */
    function followed(blanks, before, after) {
        const least = Math.min(before.length, after.length);
        let head = 0;
        while (head < least && before[head] === after[head]) head++;
        let tail = 0;
        while (tail < least - head && before.at(-1 - tail) === after.at(-1 - tail)) tail++;
        const edge = before.length - tail;
        const shift = after.length - before.length;
        const kept = blanks.filter((blank) => blank.end <= head || blank.start >= edge)
            .map((blank) => (blank.end > head ? { ...blank, start: blank.start + shift, end: blank.end + shift } : blank));
        return withTyped(kept, after);
    }

    /** Add the blanks that stand in the text as [MASK] or ____, and drop those that no longer do. */
    function withTyped(blanks, text) {
        const result = blanks.filter((blank) => !blank.typed);
        const before = new Map(blanks.filter((blank) => blank.typed).map((blank) => [`${blank.start}-${blank.end}`, blank]));
        for (const match of text.matchAll(TYPED)) {
            const [start, end] = [match.index, match.index + match[0].length];
            const inside = result.findIndex((blank) => blank.start < end && start < blank.end);
            if (inside >= 0) result.splice(inside, 1);
            const length = Number(match[1] ?? match[2]) || null;
            result.push(before.get(`${start}-${end}`) ?? { id: nextId([...blanks, ...result]), start, end, length, fixed: null, typed: true });
        }
        return result.sort((a, b) => a.start - b.start);
    }

    /** Return the blanks with a range of the text blanked, length tokens long or null; or, where it touches blanks, with these restored. */
    function toggled(blanks, start, end, length = null) {
        const touched = blanks.filter((blank) => blank.start < end && start < blank.end);
        if (touched.some((blank) => blank.typed)) return blanks;
        if (touched.length) return blanks.filter((blank) => !touched.includes(blank));
        return [...blanks, { id: nextId(blanks), start, end, length, fixed: null, typed: false }].sort((a, b) => a.start - b.start);
    }

    /** Return the text of a request, with each chosen text in place, and the blanks that are still open. */
    function written(text, blanks) {
        let result = "";
        let last = 0;
        for (const blank of blanks) {
            result += text.slice(last, blank.start) + (blank.fixed ?? mark(text, blank));
            last = blank.end;
        }
        return { text: result + text.slice(last), open: blanks.filter((blank) => blank.fixed === null) };
    }

    /** Return how a blank is written for the server: as the user typed it where that has a meaning of its own. */
    function mark(text, blank) {
        const typed = blank.typed ? text.slice(blank.start, blank.end) : "";
        if (/^\[[gs]mask/i.test(typed)) return blank.length ? typed.replace(/(?::\d+)?\]$/, `:${blank.length}]`) : typed;
        return blank.length ? `[MASK:${blank.length}]` : "[MASK]";
    }

    /** Return the parts of a text in order: `{blank}` or a piece with `text`. */
    function parts(text, blanks) {
        const result = [];
        let place = 0;
        const words = (end) => pieces(text.slice(place, end)).map((one) =>
            ({ ...one, start: one.start + place, end: one.end + place, text: text.slice(one.start + place, one.end + place) }));
        for (const blank of blanks) {
            result.push(...words(blank.start), { blank, start: blank.start, end: blank.end });
            place = blank.end;
        }
        result.push(...words(text.length));
        return result;
    }

    /** Return an example as text and blanks: the words in brackets of `A {word} here` are blanked. */
    function example(marked) {
        let text = "";
        let blanks = [];
        for (const part of marked.split(/(\{[^}]*\})/)) {
            const word = /^\{(.*)\}$/.exec(part)?.[1];
            const start = text.length;
            text += word ?? part;
            if (word !== undefined) blanks = toggled(blanks, start, text.length);
        }
        return { text, blanks };
    }

    blankfill.blanked = { pieces, followed, withTyped, toggled, written, parts, example };
})();
