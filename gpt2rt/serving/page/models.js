// The models of the server, and which one is chosen.

import { call } from "./api.js";
import { by, make } from "./dom.js";

let models = [];

export const chosenModel = () => by("model").value;

/** What the server says of the chosen model: `layers`, `context`, ... */
export const modelFacts = () => models.find(model => model.id === chosenModel()) ?? {};

/** Fills the lists of models, and keeps what was chosen in them. */
export async function listModels() {
  models = (await call("/v1/models")).data;
  const names = models.map(model => [model.id, model.id]);
  fill(by("model"), names);
  fill(by("score-beside"), [["", "no other model"], ...names]);
  by("model").dispatchEvent(new Event("change"));
}

function fill(list, choices) {
  const before = list.value;
  list.replaceChildren();
  for (const [value, text] of choices) make("option", list, text).value = value;
  if (choices.some(([value]) => value === before)) list.value = before;
}
