// Vectors: how alike a word is to itself in other sentences, or all words of a text to each other.

import { call } from "./api.js";
import { by, draw, fault, make, number } from "./dom.js";
import { chosenModel, modelFacts } from "./models.js";

const MOST = 40;  // words in the table

let words = [];  // { number, sentence, span, text, vector }

// ---- arithmetic

const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);

function unit(vector) {
  const length = Math.sqrt(dot(vector, vector));
  return length ? vector.map(value => value / length) : vector;
}

function similarities(vectors) {
  const units = vectors.map(unit);
  return units.map(a => units.map(b => Math.max(-1, Math.min(1, dot(a, b)))));
}

/**
 * Points in the plane whose distances are near those of the unit vectors: classical scaling (Torgerson
 * 1952), the two greatest eigenvectors of the centred products, by power iteration.
 */
function plane(similar) {
  const n = similar.length, rows = similar.map(row => row.reduce((sum, v) => sum + v, 0) / n);
  const all = rows.reduce((sum, v) => sum + v, 0) / n;
  let rest = similar.map((row, i) => row.map((v, j) => v - rows[i] - rows[j] + all));
  const axes = [];
  for (let axis = 0; axis < 2; axis += 1) {
    let vector = unit(rest.map((_, i) => Math.cos(1 + i * (axis + 1))));
    for (let step = 0; step < 200; step += 1) vector = unit(rest.map(row => dot(row, vector)));
    const value = Math.max(0, dot(vector, rest.map(row => dot(row, vector))));
    axes.push(vector.map(v => v * Math.sqrt(value)));
    rest = rest.map((row, i) => row.map((v, j) => v - value * vector[i] * vector[j]));
  }
  return similar.map((_, i) => axes.map(axis => axis[i]));
}

// ---- what is seen

function show() {
  const similar = similarities(words.map(word => word.vector));
  by("vectors-found").hidden = false;
  list();
  map(similar);
  table(similar);
}

function list() {
  const place = by("vectors-list");
  place.replaceChildren();
  for (const { number, sentence, span: [start, end] } of words) {
    const row = make("li", place), characters = [...sentence];
    row.dataset.word = number;
    make("span", row, number, "number");
    const text = make("span", row, characters.slice(0, start).join(""));
    make("mark", text, characters.slice(start, end).join(""));
    text.append(characters.slice(end).join(""));
  }
}

function map(similar) {
  const place = by("vectors-map"), points = plane(similar);
  place.replaceChildren();
  const [wide, high] = [0, 1].map(axis => Math.max(...points.map(point => Math.abs(point[axis]))));
  const scale = Math.min(175 / (wide || 1), 130 / (high || 1)), half = Math.max(60, scale * high + 20);
  const svg = draw("svg", place, { viewBox: `-200 ${-half} 400 ${2 * half}`, role: "img",
    "aria-label": "The words as points: the nearer, the more alike. The table below has every value" });
  for (const [index, [x, y]] of points.entries()) {
    const group = draw("g", svg, { "data-word": words[index].number });
    const at = { cx: scale * x, cy: -scale * y };
    draw("circle", group, { ...at, r: 13 });
    draw("text", group, { x: at.cx, y: at.cy }).textContent = words[index].number;
  }
  make("p", place, "The nearer two points are, the more alike are the words: the best picture in a plane.", "hint");
}

function table(similar) {
  const place = by("vectors-table");
  place.replaceChildren();
  const others = similar.flatMap((row, i) => row.filter((_, j) => i !== j));
  const low = Math.min(...others), high = Math.max(...others);
  const digits = high - low < 0.05 ? 4 : 3;
  const table = make("table", place), head = make("tr", make("thead", table));
  make("td", head, "", "self");
  for (const word of words) column(head, word.number, "col");
  const body = make("tbody", table);
  for (const [i, row] of similar.entries()) {
    const line = make("tr", body);
    column(line, `${words[i].number} ${words[i].text}`, "row");
    for (const [j, value] of row.entries()) {
      const cell = make("td", line, i === j ? "" : value.toFixed(digits), i === j ? "self" : "");
      cell.dataset.pair = `${words[i].number} ${words[j].number}`;
      if (i !== j) cell.style.setProperty("--heat", ((value - low) / (high - low || 1)).toFixed(3));
    }
  }
  by("vectors-low").textContent = `${low.toFixed(digits)}, the least alike`;
  by("vectors-high").textContent = `${high.toFixed(digits)}, the most`;
}

function column(parent, text, scope) {
  make("th", parent, text).scope = scope;
}

function near(pair) {
  const numbers = new Set(pair?.split(" "));
  for (const element of by("vectors-found").querySelectorAll("[data-word]"))
    element.classList.toggle("near", numbers.has(element.dataset.word));
}

// ---- what is done

async function embedded(sentences) {
  const body = { model: chosenModel(), input: sentences, by: "word", pooling: by("vectors-pooling").value };
  if (by("vectors-word").value.trim()) body.word = by("vectors-word").value.trim();
  if (by("vectors-layer").value !== "") body.layer = Number(by("vectors-layer").value);
  const { data } = await call("/v1/embeddings", body);
  return data.map(({ embedding, input, text, span }) =>
    ({ sentence: sentences[input], text, span, vector: embedding }));
}

async function compare() {
  fault(null);
  by("vectors-go").disabled = true;
  try {
    const sentences = by("vectors-texts").value.split("\n").filter(line => line.trim());
    const found = await embedded(sentences);
    if (found.length < 2) throw new Error("There is one word or none; two are needed for a comparison.");
    if (found.length > MOST)
      throw new Error(`There are ${number(found.length)} words; at most ${MOST} can be compared. Name one word, or take fewer sentences.`);
    words = found.map((word, index) => ({ ...word, number: String(index + 1) }));
    show();
  } catch (error) {
    fault(error);
  }
  by("vectors-go").disabled = false;
}

/** Makes the tab work. */
export function startVectors() {
  by("vectors-form").addEventListener("submit", event => { event.preventDefault(); compare(); });
  by("model").addEventListener("change", () => {
    const { layers } = modelFacts();
    by("vectors-layer").max = layers ?? "";
    by("vectors-layer").placeholder = layers ? `the last, ${layers}` : "the last";
  });
  const found = by("vectors-found");
  found.addEventListener("pointerover", event => near(event.target.closest?.("[data-pair]")?.dataset.pair
    ?? event.target.closest?.("[data-word]")?.dataset.word));
  found.addEventListener("pointerleave", () => near(""));
}
