/* The code for a request: curl, Python with requests, and Python with the openai client where it knows the route. */
"use strict";
(() => {
    const { el, fill, t, recall, keep } = blankfill;

    const OPENAI = {
        "/v1/chat/completions": { call: "chat.completions.create", fields: new Set(("model messages stream stream_options temperature top_p "
            + "max_tokens max_completion_tokens n stop seed logprobs top_logprobs frequency_penalty presence_penalty user").split(" ")) },
        "/v1/completions": { call: "completions.create", fields: new Set(("model prompt stream stream_options temperature top_p max_tokens n "
            + "stop seed logprobs echo best_of suffix frequency_penalty presence_penalty user").split(" ")) },
        "/v1/embeddings": { call: "embeddings.create", fields: new Set("model input dimensions encoding_format user".split(" ")) },
    };

    /** Write a JSON value as Python. */
    function python(value, indent = "") {
        const deeper = `${indent}    `;
        if (value === null || value === undefined) return "None";
        if (value === true) return "True";
        if (value === false) return "False";
        if (typeof value !== "object") return JSON.stringify(value);
        const list = Array.isArray(value);
        const parts = list ? value.map((item) => python(item, deeper))
            : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${python(item, deeper)}`);
        const [open, shut] = list ? "[]" : "{}";
        const line = `${open}${parts.join(", ")}${shut}`;
        if (line.length + indent.length <= 88 && !line.includes("\n")) return line;
        return `${open}\n${parts.map((part) => `${deeper}${part},\n`).join("")}${indent}${shut}`;
    }

    const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

    /** Return the code for a request, `{name: text}`. request: `{path, body}`. withKey: whether the server needs a key. */
    function codeOf({ path, body }, origin = location.origin, withKey = Boolean(blankfill.key)) {
        const url = origin + path;
        const header = withKey ? ` \\\n  -H 'Authorization: Bearer KEY'` : "";
        const streams = body.stream === true;
        const curl = `curl ${streams ? "-N " : ""}${url} \\\n  -H 'Content-Type: application/json'${header} \\\n  -d ${quoted(JSON.stringify(body, null, 2))}\n`;
        const key = withKey ? `\n    headers={"Authorization": "Bearer KEY"},` : "";
        const read = streams ? "for line in answer.iter_lines(decode_unicode=True):\n    print(line)" : "print(answer.json())";
        const requests = `import requests\n\nanswer = requests.post(\n    ${JSON.stringify(url)},${key}\n    json=${python(body, "    ")},${streams ? "\n    stream=True," : ""}\n)\nanswer.raise_for_status()\n${read}\n`;
        const codes = { curl, "Python": requests };
        if (path in OPENAI) codes["Python (openai)"] = openai(OPENAI[path], body, origin, withKey);
        return codes;
    }

    /** Return the code for the openai client; fields that it does not know go into `extra_body`. */
    function openai({ call, fields }, body, origin, withKey) {
        const known = Object.entries(body).filter(([name]) => fields.has(name));
        const more = Object.fromEntries(Object.entries(body).filter(([name]) => !fields.has(name)));
        const lines = known.map(([name, value]) => `    ${name}=${python(value, "    ")},`);
        if (Object.keys(more).length) lines.push(`    extra_body=${python(more, "    ")},`);
        const read = body.stream ? "for event in answer:\n    print(event)" : "print(answer)";
        return `from openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key=${JSON.stringify(withKey ? "KEY" : "none")})\nanswer = client.${call}(\n${lines.join("\n")}\n)\n${read}\n`;
    }

    /** Open the drawer with the code for a request; null where nothing was run. notify(sentence) says what was copied. */
    function openCode(request, notify) {
        const drawer = el("dialog", { class: "drawer", "aria-labelledby": "code-title" });
        const close = el("button", { class: "quiet", type: "button", onclick: () => drawer.close() }, t("close"));
        const head = el("div", { class: "drawer-head" }, el("h2", { id: "code-title" }, t("code.title")), close);
        fill(drawer, head, request ? codes(request, notify) : el("p", {}, t("code.empty")));
        drawer.addEventListener("close", () => drawer.remove());
        drawer.addEventListener("click", (event) => event.target === drawer && drawer.close());
        document.body.append(drawer);
        drawer.showModal();
    }

    function codes(request, notify) {
        const all = codeOf(request);
        const names = Object.keys(all);
        const text = el("code", {});
        const block = el("pre", { class: "code", tabindex: "0", role: "region", "aria-labelledby": "code-title" }, text);
        const buttons = names.map((name) => el("button", { type: "button", class: "choice", onclick: () => choose(name) }, name));
        const choose = (name) => {
            keep("code", name);
            fill(text, all[name]);
            buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(names[index] === name)));
        };
        choose(names.includes(recall("code")) ? recall("code") : names[0]);
        const copy = el("button", { type: "button", class: "quiet", onclick: () => copyText(text.textContent, notify, block) }, t("code.copy"));
        const key = blankfill.key ? el("p", { class: "hint" }, t("code.key")) : null;
        return [el("div", { class: "choices" }, buttons, copy), block, key];
    }

    /** Copy a text, and say so by notify; where the browser forbids it, select its element for Ctrl+C, if one is given. */
    async function copyText(text, notify, block = null) {
        try {
            await navigator.clipboard.writeText(text);
            notify(t("code.copied"));
        } catch {
            if (block) getSelection().selectAllChildren(block);
        }
    }

    Object.assign(blankfill, { codeOf, openCode, copyText });
})();
