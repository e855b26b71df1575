// Scoring: how surprised one model, or two, are by a text, token by token and word by word.

import { call } from "./api.js";
import { by, draw, fault, make, number } from "./dom.js";
import { chosenModel } from "./models.js";
import { close, Tokens } from "./tokens.js";

const TOP = 8;

let scores = [];
let views = [];

const unit = () => document.querySelector("[name=score-unit]:checked").value;

// ---- cells of the heat map

function tokenCells(score) {  // a character over several tokens is in the first
  let done = 0;
  return score.tokens.map(token => {
    const text = cut(score, Math.max(done, token.start), token.end);
    done = Math.max(done, token.end);
    const top = token.alternatives.map(({ text, probability }) => ({ text, p: probability }));
    return { text, name: token.text, bits: token.bits, rank: token.rank ?? undefined, top, at: token.rank,
      start: token.start, end: token.end };
  });
}

function wordCells(score) {  // white space before a word is the word's; at the end it is nobody's
  let done = 0;
  return score.words.map(word => {
    const text = cut(score, done, word.end);
    done = word.end;
    const parts = score.tokens.slice(word.first, word.last);
    const top = parts.length > 1 ? parts.map(part => ({ text: part.text, p: part.probability ?? 0,
      note: part.bits === null ? "no score" : `${part.bits.toFixed(2)} bits` })) : [];
    return { text, name: word.text, bits: word.bits, top, start: word.start, end: word.end };
  });
}

function cut(score, start, end) {  // offsets count characters, JavaScript's strings half of some
  score.characters ??= [...score.text];
  return score.characters.slice(start, end).join("");
}

// ---- what is seen

function card(score, index) {
  const card = make("section", by("score-texts"), "", "card");
  make("h2", card, score.model);
  const figures = make("dl", card, "", "figures");
  const { totals } = score;
  for (const [name, value, digits] of [["perplexity per token", totals.perplexity, 2],
    ["perplexity per word", totals.word_perplexity, 1], ["bits", totals.bits, 1],
    ["bits per token", totals.scored ? totals.bits / totals.scored : null, 2],
    ["bits per byte", totals.bits_per_byte, 3], ["tokens", totals.tokens, 0], ["words", totals.words, 0]]) {
    const figure = make("div", figures, "", name === "perplexity per token" ? "chief" : "");
    make("dt", figure, name);
    make("dd", figure, number(value, digits));
  }
  const text = make("p", card, "", "text");
  if (score.context) make("span", text, score.context, "given hint");
  const place = make("span", text);
  place.setAttribute("role", "group");
  place.setAttribute("aria-label", `The text as ${score.model} reads it`);
  return new Tokens(place, { near: cell => twin(index, cell) });
}

function twin(index, cell) {  // the same place in the other model's text
  for (const [other, view] of views.entries()) {
    for (const span of view.spans) {
      const same = cell && other !== index && span.cell.start < cell.end && span.cell.end > cell.start;
      span.classList.toggle("twin", Boolean(same));
    }
  }
}

function colour() {
  close();
  for (const [index, view] of views.entries()) {
    view.place.replaceChildren();
    view.draw((unit() === "words" ? wordCells : tokenCells)(scores[index]));
  }
}

function show() {
  by("score-found").hidden = false;
  by("score-texts").replaceChildren();
  views = scores.map(card);
  colour();
  profile();
}

/** Bits of each word as a line for each model. */
function profile() {
  const place = by("score-profile"), [{ words }] = scores;
  place.replaceChildren();
  place.hidden = words.length < 3;
  make("h2", place, "Bits, word by word");
  const most = Math.max(8, ...scores.flatMap(score => score.words.map(word => word.bits ?? 0)));
  const step = most > 24 ? 8 : 4, svg = chart(place, words.length - 1, most, step);
  const names = make("p", place, "", "facts");
  for (const [index, score] of scores.entries()) make("span", names, score.model, `key ${"ab"[index]}`);
  const told = make("span", names, compared(step));
  svg.addEventListener("pointermove", event => {
    const { left, width } = svg.getBoundingClientRect();
    const at = Math.round((event.clientX - left) / width * (words.length - 1));
    const index = Math.max(0, Math.min(words.length - 1, at));
    twin(null, words[index]);
    told.textContent = `“${words[index].text}”: ${scores.map(score => number(score.words[index].bits)).join(" and ")} bits`;
  });
  svg.addEventListener("pointerleave", () => {
    twin(null, null);
    told.textContent = compared(step);
  });
}

function chart(place, width, most, step) {
  const svg = draw("svg", place, { viewBox: `0 0 ${width} ${most}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Surprisal of each word, at most ${most.toFixed(1)} bits; the heat map above has every value` });
  for (let bits = 0; bits <= most; bits += step)
    draw("line", svg, { class: "grid", x1: 0, x2: width, y1: most - bits, y2: most - bits });
  for (const [index, { words }] of scores.entries()) {
    const points = words.map((word, at) => `${at},${most - (word.bits ?? 0)}`).join(" ");
    draw("polyline", svg, { class: `line ${"ab"[index]}`, points });
  }
  return svg;
}

function compared(step) {
  const [one, two] = scores, lines = `A line every ${step} bits.`;
  if (!two) return lines;
  const ratio = two.totals.bits / one.totals.bits - 1;
  return `${lines} ${two.model} needs ${number(Math.abs(100 * ratio), 1)} % ${ratio < 0 ? "fewer" : "more"} bits for this text.`;
}

// ---- what is done

async function score() {
  fault(null);
  by("score-go").disabled = true;
  const body = { text: by("score-text").value, top: TOP };
  if (by("score-context").value) body.context = by("score-context").value;
  if (by("score-stride").value) body.stride = Number(by("score-stride").value);
  const models = [chosenModel(), by("score-beside").value].filter(Boolean);
  try {
    scores = (await Promise.all(models.map(model => call("/v1/score", { ...body, model }))))
      .map(({ model, data: [found] }) => ({ ...found, model }));
    show();
  } catch (error) {
    fault(error);
  }
  by("score-go").disabled = false;
}

/** Makes the tab work. */
export function startScoring() {
  by("score-form").addEventListener("submit", event => { event.preventDefault(); score(); });
  for (const radio of document.getElementsByName("score-unit")) radio.addEventListener("change", colour);
}
