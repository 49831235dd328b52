"use strict";
(() => {
  const METHODS = ["get", "post", "put", "delete"];

  function make(name, text, ...children) {
    const element = document.createElement(name);
    if (text) element.textContent = text;
    element.append(...children);
    return element;
  }

  function resolved(schema, whole) {
    if (!schema || !schema.$ref) return schema || {};
    return schema.$ref.split("/").slice(1).reduce((part, name) => part[name] || {}, whole);
  }

  function kind(schema, whole, depth = 0) {
    const own = resolved(schema, whole);
    if (depth > 4) return "object";
    const several = own.anyOf || own.oneOf;
    if (several) return [...new Set(several.map((one) => kind(one, whole, depth + 1)))].join(" or ");
    if (own.const !== undefined) return JSON.stringify(own.const);
    if (own.enum) return own.enum.map((value) => JSON.stringify(value)).join(" or ");
    if (own.type === "array") return `list of ${kind(own.items, whole, depth + 1)}`;
    if (own.type === "object" && own.properties) return `object with ${Object.keys(own.properties).join(", ")}`;
    return Array.isArray(own.type) ? own.type.join(" or ") : own.type || "any value";
  }

  function bounds(schema, whole) {
    const own = resolved(schema, whole);
    const words = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<", maxLength: "length ≤",
      minLength: "length ≥", maxItems: "entries ≤", minItems: "entries ≥" };
    const parts = [own, ...(own.anyOf || []), ...(own.oneOf || [])];
    return parts.flatMap((part) => Object.entries(words).filter(([name]) => part[name] !== undefined)
      .map(([name, word]) => `${word} ${part[name]}`)).join(", ");
  }

  function table(heads, rows) {
    const head = make("tr", "", ...heads.map((text) => make("th", text)));
    const body = rows.map((row) => make("tr", "", ...row.map((cell) =>
      make("td", typeof cell === "string" ? cell : "", ...(typeof cell === "string" ? [] : [cell])))));
    const made = make("table", "", make("thead", "", head), make("tbody", "", ...body));
    const scroll = make("div", "", made);
    scroll.className = "scroll";
    scroll.tabIndex = 0;
    return scroll;
  }

  function fields(schema, whole) {
    const own = resolved(schema, whole);
    const required = own.required || [];
    return Object.entries(own.properties || {}).map(([name, value]) => {
      const full = { ...resolved(value, whole), ...value };
      const fallback = full.default === undefined || full.default === null ? "" : JSON.stringify(full.default);
      return [make("code", name), [kind(value, whole), bounds(value, whole)].filter(Boolean).join(", "),
        required.includes(name) ? "required" : fallback, full.description || ""];
    });
  }

  function curl(method, path, operation, example) {
    const lines = [`curl ${location.origin}${path}`];
    if (operation.security) lines.push('  -H "Authorization: Bearer $KEY"');
    if (example !== undefined) {
      lines.push("  -H 'Content-Type: application/json'");
      lines.push(`  -d '${JSON.stringify(example).replaceAll("'", "'\\''")}'`);
    }
    return lines.join(" \\\n");
  }

  function section(method, path, operation, whole) {
    const made = make("section", "", make("h2", "", make("code", `${method.toUpperCase()} ${path}`)));
    made.id = operation.operationId;
    made.append(make("p", operation.summary || ""));
    if (operation.description) {
      const text = make("p", operation.description);
      text.className = "muted";
      made.append(text);
    }
    const body = ((operation.requestBody || {}).content || {})["application/json"];
    const rows = body ? fields(body.schema, whole) : [];
    if (rows.length) made.append(make("h3", "Fields"), table(["name", "value", "default", "meaning"], rows));
    made.append(make("h3", "A call"), make("pre", curl(method, path, operation, body && body.example)));
    const answers = Object.entries(operation.responses || {});
    made.append(make("h3", "Answers"), table(["status", "meaning"], answers.map(([status, answer]) =>
      [status, answer.description || ""])));
    return made;
  }

  function show(whole) {
    const links = make("ul");
    const main = document.getElementById("paths");
    for (const [path, methods] of Object.entries(whole.paths)) {
      for (const method of METHODS.filter((name) => methods[name])) {
        main.append(section(method, path, methods[method], whole));
        const link = make("a", path);
        link.href = `#${methods[method].operationId}`;
        links.append(make("li", "", link));
      }
    }
    document.getElementById("contents").append(links);
    document.getElementById("state").textContent = `Version ${whole.info.version}.`;
  }

  fetch("openapi.json").then((answer) => {
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    return answer.json();
  }).then(show).catch((error) => {
    document.getElementById("state").textContent = `The description cannot be read (${error.message}).`;
  });
})();
