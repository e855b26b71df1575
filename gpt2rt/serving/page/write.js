// Writing: a text is continued token by token, and any token can be exchanged for another.
//
// A story is { model, given, ids, runs }: the text that it began with, its token ids, and what was added, a
// run of { tokens, text } for each answer of the model and for each token that was chosen by hand.

import { call, stream } from "./api.js";
import { by, fault, number } from "./dom.js";
import { characters } from "./layout.js";
import { chosenModel } from "./models.js";
import { buildSettings, settings } from "./settings.js";
import { close, Tokens } from "./tokens.js";

const TOP = 8;  // alternatives of a token
const PAST = 100;  // stories that can be gone back to
const ENDS = {
  context: () => "the model's context is full",
  end_of_text: () => "the model ended the text here",
  stop_string: by => `stopped at ${JSON.stringify(by)}`,
  stop_token: () => "a stop token ended it",
};

let story = null;
let running = null;  // the AbortController of the request
let frame = null;  // the picture that is asked for
let past = [];
const tokens = new Tokens(by("continuation"), { pick: choose });

const added = () => story.runs.flatMap(run => run.tokens);
const whole = () => story ? story.given + story.runs.map(run => run.text).join("") : by("prompt").value;

function cells(run) {
  const texts = characters(run.tokens, run.text);
  return run.tokens.map((token, index) => Object.assign(token.cell ??= cell(token), { text: texts[index] }));
}

function cell(token) {
  const top = token.top.map(({ id, text, logprob }) => ({ id, text, logprob, p: Math.exp(logprob) }));
  const at = top.findIndex(choice => choice.id === token.id);
  return { name: token.text, bits: bits(token), rank: at < 0 ? undefined : at, top, at, taken: token.taken };
}

const bits = token => Math.max(0, -token.logprob / Math.LN2);

// ---- what is seen

function show() {
  by("prompt").hidden = Boolean(story);
  by("paper").hidden = !story;
  by("given").textContent = story?.given ?? "";
  tokens.draw(story ? story.runs.flatMap(cells) : []);
  by("paper").classList.toggle("running", Boolean(running));
  by("go").textContent = running ? "Stop" : "Continue";
  by("again").disabled = Boolean(running) || !story?.runs.length;
  by("back").disabled = Boolean(running) || !past.length;
  by("edit").disabled = Boolean(running) || !story;
  by("copy").disabled = !story;
}

function tell(run) {
  const all = added(), facts = [`${number(all.length)} token${all.length === 1 ? "" : "s"}`];
  const mean = all.reduce((sum, token) => sum + bits(token), 0) / all.length;
  if (all.length) facts.push(`perplexity ${number(2 ** mean, 1)}`);
  const { first, began, now, end, by: stop, seed } = run;
  const seconds = number((now - began) / 1000), count = number(run.tokens.length);
  if (first) facts.push(`first after ${number(first - began, 0)} ms, ${count} in ${seconds} s`);
  facts.push(`seed ${seed}`);
  if (ENDS[end]) facts.push(ENDS[end](stop));
  say(facts.join(" · "));
}

const say = text => { by("figures").textContent = text; };

let unsaid = "";

function speak(text, last = false) {  // a sentence at a time, not a token
  unsaid += text;
  const end = last ? unsaid.length : Math.max(...[". ", "! ", "? ", "\n", ".\"", ".”"].map(e => unsaid.lastIndexOf(e))) + 1;
  if (end <= 0) return;
  by("said").textContent = unsaid.slice(0, end);
  unsaid = unsaid.slice(end);
}

function follow() {  // the end of the text stays in sight, if it was
  const box = by("caret").getBoundingClientRect();
  if (box.bottom > innerHeight && box.top < innerHeight + 120) scrollBy(0, box.bottom - innerHeight + 80);
}

// ---- what is done

function remember() {
  past.push({ story: story && { ...story, runs: [...story.runs] }, written: by("prompt").value });
  past = past.slice(-PAST);
}

function restore() {
  ({ story, written: by("prompt").value } = past.pop());
}

async function opened(signal) {
  const model = chosenModel();
  if (story?.model === model) return;
  const given = whole();
  const { prompt } = await call("/tokenize", { model, text: given }, signal);
  story = { model, given, ids: prompt, runs: [] };
}

async function go() {
  if (running) return running.abort();
  remember();
  await attempt(continued);
}

async function attempt(work) {
  fault(null);
  close();
  const mine = running = new AbortController();
  show();
  try {
    await work(mine.signal);
  } catch (error) {
    if (error.name !== "AbortError") fault(error);
  }
  if (running !== mine) return;  // another one is under way
  running = null;
  if (story?.runs.at(-1)?.now) tell(story.runs.at(-1));
  tidy();
  speak("", true);
  show();
}

function tidy() {  // an attempt of which nothing came leaves no trace
  const last = story?.runs.at(-1);
  if (last && !last.tokens.length && !last.end) story.runs.pop();
  if (!story?.runs.length) restore();
  else if (same(story.runs, past.at(-1).story?.runs ?? [])) past.pop();
}

const same = (runs, others) => runs.length === others.length && runs.every((run, at) => run === others[at]);

async function continued(signal) {
  await opened(signal);
  const chosen = settings(), ended = story.runs.at(-1)?.end === "end_of_text";
  const run = { tokens: [], text: "", began: performance.now(), seed: chosen.seed, drawn: true };
  const ids = [...story.ids, ...added().map(token => token.id)];
  const body = { ...chosen, model: story.model, prompt: ids, top_logprobs: TOP, return_tokens: true };
  if (ended) body.min_tokens = Math.max(1, body.min_tokens);  // or it would end at once again
  story.runs.push(run);
  show();
  for await (const event of stream("/v1/completions", body, signal)) take(run, event);
}

function take(run, event) {
  const choice = event.choices[0];
  if (!choice) return;
  run.now = performance.now();
  if (choice.tokens?.length) run.first ??= run.now;
  run.tokens.push(...choice.tokens ?? []);
  run.text += choice.text;
  run.end = choice.stop_details?.reason ?? run.end;
  run.by = choice.stop_details?.by;
  speak(choice.text);
  frame ??= requestAnimationFrame(() => {  // tokens may come faster than pictures
    frame = null;
    if (!running) return;
    tokens.draw(story.runs.flatMap(cells));
    tell(run);
    follow();
  });
}

async function again() {
  remember();
  if (story.runs.at(-1).drawn) story.runs.pop();
  await attempt(continued);
}

async function choose(index, choice) {
  if (running) running.abort();
  remember();
  const runs = [];
  let left = index;
  for (const run of story.runs) {
    const kept = run.tokens.slice(0, Math.max(0, left));
    if (kept.length) runs.push({ ...run, tokens: kept, text: kept.length < run.tokens.length
      ? characters(run.tokens, run.text).slice(0, kept.length).join("") : run.text });
    left -= run.tokens.length;
  }
  const token = added()[index];
  runs.push({ tokens: [{ ...choice, top: token.top, taken: true, cell: undefined }], text: choice.text });
  story = { ...story, runs };
  show();
  tokens.focus(index);
  close();
  await attempt(continued);
}

function back() {
  restore();
  say("");
  show();
  (story ? by("go") : by("prompt")).focus();
}

function edit() {
  remember();
  by("prompt").value = whole();
  story = null;
  say("");
  show();
  by("prompt").focus();
}

async function copy() {
  await navigator.clipboard.writeText(whole());
  by("copy").textContent = "Copied";
  setTimeout(() => { by("copy").textContent = "Copy"; }, 1500);
}

/** Makes the tab work. */
export function startWriting() {
  buildSettings();
  by("go").addEventListener("click", () => go());
  by("again").addEventListener("click", () => again());
  by("back").addEventListener("click", back);
  by("edit").addEventListener("click", edit);
  by("copy").addEventListener("click", () => copy().catch(fault));
  by("write").addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) {
      event.preventDefault();
      by("go").focus();
      go();
    } else if (event.key === "Escape" && running) running.abort();
  });
  show();
}
