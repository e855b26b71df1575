// The models of the server, and which one is chosen.

import { call } from "./api.js";
import { by, make } from "./dom.js";

export const chosenModel = () => by("model").value;

/** Fills the lists of models, and keeps what was chosen in them. */
export async function listModels() {
  const { data } = await call("/v1/models");
  fill(by("model"), data.map(model => [model.id, model.id]));
  fill(by("score-beside"), [["", "no other model"], ...data.map(model => [model.id, model.id])]);
}

function fill(list, choices) {
  const before = list.value;
  list.replaceChildren();
  for (const [value, text] of choices) make("option", list, text).value = value;
  if (choices.some(([value]) => value === before)) list.value = before;
}
