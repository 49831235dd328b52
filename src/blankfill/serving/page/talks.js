/* Conversations and drafts: trees of messages that are kept in the browser, listed, exported and imported.
 *
 * A talk is `{id, kind, title, updated, model, nodes, leaf}`. kind: "chat" or "write". nodes: id → `{id, parent, role, text,
 * finish, model}`. A message that is edited or written again is a new child of the same parent, so nothing is lost; `leaf`
 * is the end of the branch that is shown. role: "user" or "assistant".
 *
 * Not here: panels that show them (`chat.js`, `write.js`).
 */
"use strict";
(() => {
    const { recall, keep, texts, t } = blankfill;
    const KEY = "talks";
    const MOST_CHARACTERS = 2_000_000; // of all talks together; browsers have room for about five million
    const MOST_TALKS = 200;
    const BLANK = /\[(?:mask|blank|gmask|smask)(?::\d+)?\]|<mask(?::\d+)?>|<extra_id_\d+>|_{3,}/i; // as the server reads them
    const FORMAT = "blankfill-conversation";

    texts({
        en: {
            "talks.untitled": "Untitled",
            "talks.you": "You",
            "talks.model": "Model",
            "talks.bad.json": "The file is not JSON.",
            "talks.bad.format": "The file is not a conversation that this page has exported.",
            "talks.bad.tree": "The file has a message without the message before it.",
            "talks.system": "System",
        },
        zh: {
            "talks.untitled": "未命名",
            "talks.you": "你",
            "talks.model": "模型",
            "talks.bad.json": "该文件不是 JSON。",
            "talks.bad.format": "该文件不是由此页面导出的对话。",
            "talks.bad.tree": "文件中有一条消息缺少它的上一条消息。",
            "talks.system": "系统",
        },
    });

    const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");

    // ---- The tree ----------------------------------------------------------------------------------------------

    /** Return an empty talk. */
    function begin(kind, model = "") {
        return { id: newId(), kind, title: "", updated: Date.now(), model, system: "", nodes: {}, leaf: null };
    }

    /** Add a message behind another (null: at the beginning), show its branch, and return it. */
    function add(talk, parent, role, text) {
        const node = { id: newId(), parent, role, text, finish: null };
        talk.nodes[node.id] = node;
        talk.leaf = node.id;
        return node;
    }

    /** Return the messages from the beginning to one, in order; by default those of the branch that is shown. */
    function path(talk, end = talk.leaf) {
        const nodes = [];
        for (let at = talk.nodes[end]; at; at = talk.nodes[at.parent]) nodes.unshift(at);
        return nodes;
    }

    /** Return the versions of a message: all that follow the same message, oldest first. */
    const versions = (talk, node) => Object.values(talk.nodes).filter((other) => other.parent === node.parent);

    /** Show another version of a message, with the newest messages behind it. */
    function show(talk, node) {
        let end = node;
        for (;;) {
            const next = Object.values(talk.nodes).findLast((other) => other.parent === end.id);
            if (!next) break;
            end = next;
        }
        talk.leaf = end.id;
    }

    /** Return a title of a talk: its own, or the beginning of its first message. */
    function titleOf(talk) {
        const first = path(talk)[0]?.text.trim().replace(/\s+/g, " ") ?? "";
        return talk.title || (first.length > 60 ? `${first.slice(0, 60)}…` : first) || t("talks.untitled");
    }

    /**
     * Return the text of a draft in parts, `[text, node]` each: its first message, and what was written into its blank or
     * behind it; node: the message that wrote a part, null for the user's own text.
     */
    function parts(nodes) {
        let made = [[nodes[0]?.text ?? "", null]];
        for (const node of nodes.slice(1)) {
            const at = made.findIndex(([text, writer]) => writer === null && BLANK.test(text));
            if (at < 0) made = [...made, [node.text, node]];
            else {
                const [text] = made[at];
                const { index, 0: blank } = BLANK.exec(text);
                made.splice(at, 1, [text.slice(0, index), null], [node.text, node], [text.slice(index + blank.length), null]);
            }
        }
        return made.filter(([text, writer]) => text !== "" || writer);
    }

    // ---- The history -------------------------------------------------------------------------------------------

    const isTalk = (value) => {
        const tree = value && typeof value.id === "string" && value.nodes && typeof value.nodes === "object" && !Array.isArray(value.nodes);
        return tree && (value.kind === "chat" || value.kind === "write") && Object.values(value.nodes).every((node) => isNode(value, node));
    };
    const isNode = (talk, node) => node && typeof node.text === "string" && (node.role === "user" || node.role === "assistant")
        && typeof node.id === "string" && talk.nodes[node.id] === node && (node.parent === null || typeof node.parent === "string");

    /** Return all talks of a kind, the newest first. */
    function list(kind) {
        const all = recall(KEY, []);
        return (Array.isArray(all) ? all : []).filter((talk) => isTalk(talk) && talk.kind === kind).sort((a, b) => b.updated - a.updated);
    }

    /** Return the talk that was shown last, or a new one. A text that was not finished then will not be. */
    function reopened(kind, id) {
        const found = list(kind).find((one) => one.id === id) ?? begin(kind);
        for (const node of Object.values(found.nodes)) {
            if (node.role === "assistant" && node.finish === null) node.finish = "interrupted";
        }
        return found;
    }

    const everything = () => [...list("chat"), ...list("write")].sort((a, b) => b.updated - a.updated);

    /** Keep a talk. Where there is no room, the oldest ones are dropped; returns how many. */
    function store(talk) {
        talk.updated = Date.now();
        const others = everything().filter((other) => other.id !== talk.id); // another tab may have written meanwhile
        return put([stripped(talk), ...others]);
    }

    function put(all) {
        const sizes = all.map((talk) => JSON.stringify(talk).length);
        let count = Math.min(all.length, MOST_TALKS);
        let size = sizes.slice(0, count).reduce((sum, one) => sum + one, 0);
        while (count > 1 && size > MOST_CHARACTERS) size -= sizes[--count];
        while (!keep(KEY, all.slice(0, count)) && count > 0) count -= 1; // the browser's own limit
        return all.length - count;
    }

    /** Return a talk as it is kept: without probabilities, which are large. */
    function stripped(talk) {
        const nodes = Object.values(talk.nodes).map(({ tokens, ...node }) => [node.id, node]);
        return { ...talk, nodes: Object.fromEntries(nodes) };
    }

    const remove = (id) => put(everything().filter((talk) => talk.id !== id));
    const removeAll = (kind) => put(everything().filter((talk) => talk.kind !== kind));

    // ---- Files -------------------------------------------------------------------------------------------------

    /** Return the branch that is shown as Markdown. */
    function markdown(talk) {
        const nodes = path(talk);
        if (talk.kind === "write") return `${parts(nodes).map(([text]) => text).join("")}\n`;
        const system = talk.system ? [`**${t("talks.system")}**\n\n${talk.system}`] : [];
        const said = nodes.map((node) => `**${t(node.role === "user" ? "talks.you" : "talks.model")}**\n\n${node.text}`);
        return `# ${titleOf(talk)}\n\n${[...system, ...said].join("\n\n---\n\n")}\n`;
    }

    /** Return a talk with all its branches as JSON. */
    const json = (talk) => `${JSON.stringify({ format: FORMAT, version: 1, talk: { ...stripped(talk), title: titleOf(talk) } }, null, 2)}\n`;

    /** Read a talk that `json` has written. Throws an Error with a sentence. */
    function parse(text, kind) {
        let read;
        try {
            read = JSON.parse(text);
        } catch {
            throw new Error(t("talks.bad.json"));
        }
        const talk = read?.talk;
        if (read?.format !== FORMAT || !isTalk(talk) || talk.kind !== kind) throw new Error(t("talks.bad.format"));
        for (const node of Object.values(talk.nodes)) {
            const seen = new Set();
            for (let at = node; at.parent !== null; at = talk.nodes[at.parent]) {
                if (seen.has(at.id) || !talk.nodes[at.parent]) throw new Error(t("talks.bad.tree"));
                seen.add(at.id);
            }
        }
        const leaf = talk.nodes[talk.leaf] ? talk.leaf : (Object.keys(talk.nodes).at(-1) ?? null);
        const text_of = (value) => (typeof value === "string" ? value : "");
        return { ...begin(kind), nodes: talk.nodes, leaf, title: text_of(talk.title), model: text_of(talk.model), system: text_of(talk.system) };
    }

    /** Return a name for a file of a talk. */
    const fileName = (talk, ending) => `${titleOf(talk).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40) || "blankfill"}.${ending}`;

    blankfill.talks = { begin, add, path, versions, show, titleOf, parts, list, reopened, store, remove, removeAll, markdown, json, parse, fileName };
})();
