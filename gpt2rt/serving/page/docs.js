// The endpoints, made from the server's own description of them.

import { startAccess } from "./access.js";
import { description, resolved } from "./api.js";
import { by, fault, make, prose } from "./dom.js";

const OWN = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "maxLength", "maxItems", "pattern"];
const WORDS = { minimum: "at least", exclusiveMinimum: "above", maximum: "at most", exclusiveMaximum: "below",
  maxLength: "characters: at most", maxItems: "entries: at most", pattern: "matches" };

const amount = value => value > Number.MAX_SAFE_INTEGER ? value.toExponential(2) : value;

// A type in words: `number or null`, `list of string`, `json_object`.
function type(api, schema) {
  const s = resolved(api, schema);
  if (s.enum) return s.enum.map(value => JSON.stringify(value)).join(", ");
  if (s.const !== undefined) return JSON.stringify(s.const);
  const choices = s.anyOf ?? s.oneOf;
  if (choices) return [...new Set(choices.map(choice => type(api, choice)))].join(" or ");
  if (s.type === "array") return `list of ${s.items ? type(api, s.items) : "values"}`;
  return s.title && s.properties ? s.title : s.type ?? "any";
}

function limits(api, schema) {
  const s = resolved(api, schema);
  const own = OWN.filter(name => s[name] !== undefined).map(name => `${WORDS[name]} ${amount(s[name])}`);
  return [...own, ...(s.anyOf ?? []).flatMap(choice => limits(api, choice))];
}

function row(api, body, name, schema, required) {
  const line = make("tr", body);
  make("code", make("th", line), name);
  line.firstChild.scope = "row";
  const kind = make("td", line);
  make("div", kind, type(api, schema));
  const rest = [...limits(api, schema)];
  if (required) rest.unshift("required");
  else if (schema.default !== undefined && schema.default !== null) rest.unshift(`default ${JSON.stringify(schema.default)}`);
  make("small", kind, rest.join(" · "));
  prose(make("td", line), schema.description ?? "");
}

function table(api, parent, schema) {
  const { properties = {}, required = [] } = resolved(api, schema);
  const table = make("table", make("div", parent, "", "wide-table fields"));
  const head = make("tr", make("thead", table)), body = make("tbody", table);
  for (const title of ["field", "type", "what it does"]) make("th", head, title).scope = "col";
  for (const [name, field] of Object.entries(properties)) row(api, body, name, field, required.includes(name));
}

function endpoint(api, path, method, operation) {
  const card = make("section", by("endpoints"), "", "card");
  card.id = `${method}${path}`.replace(/[^a-z0-9]+/gi, "-");
  const title = make("h2", card);
  make("span", title, method.toUpperCase(), "method");
  make("code", title, path);
  for (const text of [operation.summary, operation.description]) if (text) prose(make("p", card, "", "description"), text);
  const content = operation.requestBody?.content["application/json"];
  for (const field of operation.parameters ?? [])
    make("p", card, `${field.name} (${field.in}): ${field.description ?? type(api, field.schema)}`, "hint");
  if (content) table(api, card, content.schema);
  answers(card, operation.responses ?? {}, status => status < 400);
  const link = make("a", by("contents"), path);
  link.href = `#${card.id}`;
}

function answers(card, responses, wanted) {
  for (const [status, { description = "" }] of Object.entries(responses).filter(([status]) => wanted(+status))) {
    const line = make("p", card, "", "hint");
    make("b", line, status);
    prose(make("span", line), ` ${description}`);
  }
}

function errors(api) {  // the same for all endpoints
  const all = Object.values(api.paths).flatMap(Object.values).map(operation => operation.responses ?? {});
  const card = make("section", by("endpoints"), "", "card");
  make("h2", card, "Errors");
  answers(card, Object.assign({}, ...all), status => status >= 400);
}

async function show() {
  by("contents").replaceChildren();
  by("endpoints").replaceChildren();
  try {
    const api = await description();
    for (const [path, methods] of Object.entries(api.paths))
      for (const [method, operation] of Object.entries(methods)) endpoint(api, path, method, operation);
    errors(api);
  } catch (error) {
    fault(error);
  }
}

by("base").textContent = new URL("../v1", import.meta.url);
startAccess(show);
show();
