// Starts the page: tabs, the models, and what the server says of its fields.

import { startAccess } from "./access.js";
import { fields } from "./api.js";
import { by, fault, note } from "./dom.js";
import { listModels } from "./models.js";
import { startScoring } from "./score.js";
import { describeSettings } from "./settings.js";
import { close } from "./tokens.js";
import { startVectors } from "./vectors.js";
import { startWriting } from "./write.js";

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab) {
  close();
  for (const other of tabs) {
    other.setAttribute("aria-selected", String(other === tab));
    other.tabIndex = other === tab ? 0 : -1;
    by(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
}

function named() {  // the tab in the address, so that a reload and a bookmark find it
  return tabs.find(tab => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? tabs[0];
}

function chosen(tab) {
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
  select(tab);
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => chosen(tab));
  tab.addEventListener("keydown", event => {
    const last = tabs.length - 1;
    const to = { ArrowLeft: index ? index - 1 : last, ArrowRight: index < last ? index + 1 : 0,
      Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    tabs[to].focus();
    chosen(tabs[to]);
  });
}
for (const form of document.querySelectorAll("main form"))
  form.addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
addEventListener("hashchange", () => select(named()));
select(named());

async function describe() {
  await describeSettings();
  for (const place of document.querySelectorAll("[data-field]")) {
    const [path, name] = place.dataset.field.split(" ");
    note(place, (await fields(path))[name]);
  }
}

async function meet() {
  try {
    await listModels();
    await describe();
  } catch (error) {
    fault(error);
  }
}

startAccess(meet);
startWriting();
startScoring();
startVectors();
meet();
