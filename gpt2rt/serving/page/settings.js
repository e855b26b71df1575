// The settings of a continuation. What they do and their limits are the server's own description.

import { fields } from "./api.js";
import { by, make, note } from "./dom.js";

const MAIN = [  // name, label, what it is here at first, and the slider's ends and step
  { name: "max_tokens", label: "Length", start: 60, slider: [1, 300, 1] },
  { name: "temperature", label: "Temperature", start: 1, slider: [0, 2, 0.05] },
  { name: "top_k", label: "Top k", start: 40, slider: [0, 200, 1] },
  { name: "top_p", label: "Top p", start: 1, slider: [0.05, 1, 0.01] },
  { name: "seed", label: "Seed" },
];
const MORE = [
  { name: "min_p", label: "Min p", start: 0, slider: [0, 1, 0.01] },
  { name: "typical_p", label: "Typical p", start: 1, slider: [0.05, 1, 0.01] },
  { name: "repetition_penalty", label: "Repetition penalty", start: 1, slider: [0.5, 2, 0.05] },
  { name: "frequency_penalty", label: "Frequency penalty", start: 0, slider: [-2, 2, 0.1] },
  { name: "presence_penalty", label: "Presence penalty", start: 0, slider: [-2, 2, 0.1] },
  { name: "no_repeat_ngram", label: "N-grams only once", start: 0, slider: [0, 10, 1] },
  { name: "min_tokens", label: "Least length", start: 0, slider: [0, 300, 1] },
  { name: "stop", label: "Stop at", text: true },
];
const ESCAPES = { "\\n": "\n", "\\t": "\t", "\\\\": "\\" };

const rows = new Map();  // name -> { setting, row, input, slider, note }
let keep;  // whether the seed stays

function input(setting, row) {
  const id = `set-${setting.name}`;
  make("label", row, setting.label).htmlFor = id;
  const input = make("input", row);
  input.id = id;
  input.type = setting.text ? "text" : "number";
  input.autocomplete = "off";
  input.setAttribute("aria-describedby", `${id}-note`);
  if (setting.text) input.placeholder = "none";
  else input.step = setting.slider && setting.slider[2] < 1 ? "any" : 1;
  return input;
}

function slide({ slider: [min, max, step], label }, row, number) {
  const slider = make("input", row);
  Object.assign(slider, { type: "range", min, max, step, tabIndex: -1 });  // keys: the number beside it
  slider.setAttribute("aria-hidden", "true");
  slider.addEventListener("input", () => { number.value = slider.value; mark(); });
  number.addEventListener("input", () => { slider.value = number.value; mark(); });
  return slider;
}

function build(setting, parent) {
  const row = make("div", parent, "", "setting");
  const field = input(setting, row);
  const slider = setting.slider && slide(setting, row, field);
  if (setting.name === "seed") keep = keeper(row, field);
  make("small", row).id = `${field.id}-note`;
  rows.set(setting.name, { setting, row, input: field, slider });
}

function keeper(row, seed) {  // a seed that is typed is kept
  const label = make("label", row, "", "keep"), box = make("input", label);
  box.type = "checkbox";
  seed.addEventListener("input", () => { box.checked = Boolean(seed.value); });
  label.append("keep it: the same text again");
  return box;
}

function reset() {
  for (const { setting, input, slider } of rows.values()) {
    if (setting.name === "seed") continue;
    input.value = setting.start ?? "";
    if (slider) slider.value = setting.start;
  }
  mark();
}

function mark() {  // a dot beside what was changed
  for (const { setting, row, input } of rows.values())
    if (setting.name !== "seed") row.classList.toggle("set", input.value !== String(setting.start ?? ""));
}

/** Puts the settings into the page. */
export function buildSettings() {
  for (const setting of MAIN) build(setting, by("settings-main"));
  for (const setting of MORE) build(setting, by("settings-more"));
  by("settings-reset").addEventListener("click", reset);
  by("settings").open = matchMedia("(min-width: 48rem)").matches;
  reset();
}

/** Fetches what the settings do, and their limits. */
export async function describeSettings() {
  const known = await fields("/v1/completions");
  for (const [name, { setting, input }] of rows) {
    const field = known[name] ?? {};
    note(by(`${input.id}-note`), field, setting.text && "`\\n` is a new line, `\\t` a tab.");
    input.min = field.minimum ?? "";
    input.max = field.maximum ?? "";
  }
}

/** The settings as the endpoint takes them, with a new seed unless the old one is kept. */
export function settings() {
  const body = {};
  const seed = rows.get("seed").input;
  if (!keep.checked || !seed.value) [seed.value] = crypto.getRandomValues(new Uint32Array(1));
  for (const [name, { setting, input }] of rows) {
    if (!setting.text) body[name] = input.value === "" ? setting.start : Number(input.value);
    else if (input.value) body[name] = [input.value.replace(/\\[nt\\]/g, c => ESCAPES[c])];
  }
  return body;
}
