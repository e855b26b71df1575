// Makes elements and writes numbers. Text gets into the page as text alone, never as HTML.

export const by = id => document.getElementById(id);

export function make(name, parent, text = "", kind = "") {
  const element = document.createElement(name);
  element.textContent = text;
  if (kind) element.className = kind;
  parent?.append(element);
  return element;
}

export function draw(name, parent, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

export function percent(p) {
  return p >= 0.1 ? (100 * p).toFixed(1) + " %" : p >= 1e-4 ? (100 * p).toPrecision(2) + " %"
    : p.toExponential(1);
}

export function number(value, digits = 2) {
  const most = value < 1000 ? digits : 0;
  return value === null || value === undefined ? "–" : value < 1e6
    ? value.toLocaleString("en", { maximumFractionDigits: most }) : value.toExponential(2);
}

/** A sentence of the server's description; what is in backquotes is code. */
export function prose(parent, text) {
  parent.replaceChildren();
  for (const [index, part] of text.split("`").entries())
    if (part) parent.append(index % 2 ? make("code", null, part) : part);
}

/** What a field of the page does, in the words of the endpoint's field. */
export function note(parent, field, more = "") {
  prose(parent, `${field?.description ?? ""} ${more}`.trim().replace("null", "empty"));
}

export const MARKS = { "\n": "↵", "\r": "␍", "\t": "⇥" };

/** A token with its spaces and control characters as signs. */
export function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f]/g, c => MARKS[c] ?? "\\x" +
    c.charCodeAt(0).toString(16).padStart(2, "0")).replace(/ /g, "·");
}

/** Tells what went wrong above the tabs; nothing takes it away. A missing key is asked for. */
export function fault(error) {
  by("fault").hidden = !error;
  by("fault-text").textContent = error?.message ?? "";
  if (error) console.error(error);
  if (error?.status === 401 && !by("key").open) by("key").showModal();
}
