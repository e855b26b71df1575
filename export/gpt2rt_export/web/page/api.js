// Answers what the page of `gpt2rt serve` asks its server for, by the model in this page.

export const ROOT = new URL("..", import.meta.url).href;  // this file is in `page/`

const engine = new Worker(new URL("engine.js", import.meta.url), { type: "module", name: "engine" });
const waiting = new Map();  // request -> what takes its messages
let requests = 0;

/** What the site says of its model: `name`, `hparams`, `files`, `fields`, ... */
export const about = read("model.json");

async function read(name) {
  const response = await fetch(new URL(name, ROOT)).catch(() => null);
  if (!response?.ok) throw new Error(`${name} cannot be fetched (${response ? response.status : "no connection"}).`);
  return response.json().catch(() => { throw new Error(`${name} is damaged; load it onto the server again.`); });
}

/** Takes the promise of an open model, for which all requests wait: where it fails, they do too. */
export let answerAfter;
const begun = new Promise(resolve => { answerAfter = resolve; });
begun.catch(() => {});  // who opens the model tells of it

let opening;  // what takes the messages of the model's opening
engine.addEventListener("error", event => opening?.failed(event.message || "The model's worker does not start."));
engine.addEventListener("message", ({ data }) => data.id === undefined ? opening[data.kind](data.error ?? data) : waiting.get(data.id)?.(data));

/** Opens the model on a device, with so many threads; `progress(done, total)` tells what has come of its files. */
export async function openModel(device, threads, progress) {
  engine.postMessage({ kind: "open", about: await about, root: ROOT, device, threads });
  return new Promise((resolve, reject) => {
    opening = { progress: ({ done, total }) => progress(done, total), opened: resolve, failed: error => reject(new Error(error)) };
  });
}

async function* ask(kind, body, signal) {
  const id = requests++, messages = [];
  let wake = () => {};
  const arrived = message => { messages.push(message); wake(); };
  const stop = () => { engine.postMessage({ kind: "stop", id }); wake(); };
  waiting.set(id, arrived);
  signal?.addEventListener("abort", stop);
  begun.then(() => engine.postMessage({ id, kind, body }), ({ message }) => arrived({ error: message }));
  try {
    while (true) {
      signal?.throwIfAborted();
      if (!messages.length) await new Promise(resolve => { wake = resolve; });
      const message = messages.shift();
      if (message?.error) throw new Error(message.error);
      if (message?.done) return;
      if (message) yield message.event;
    }
  } finally {
    engine.postMessage({ kind: "stop", id });
    signal?.removeEventListener("abort", stop);
    waiting.delete(id);
  }
}

/** `/tokenize`: the tokens that the model reads for a text. */
export async function call(path, { text }, signal) {
  for await (const reply of ask("tokenize", { text }, signal)) return reply;
  throw signal.reason;
}

/** `/v1/completions`: an event for each new token. */
export async function* stream(path, body, signal) {
  await check(body);
  for await (const event of ask("write", body, signal)) yield { choices: [event] };
}

/** The fields of a request: name -> { description, minimum, maximum, ... }. */
export const fields = async () => (await about).fields;

async function check(body) {
  const known = await fields();
  for (const [name, value] of Object.entries(body)) {
    const field = known[name];
    if (typeof value !== "number" || !field) continue;
    const { minimum: least = -Infinity, maximum: most = Infinity, exclusiveMinimum: above = -Infinity } = field;
    const odd = !(value >= least && value <= most && value > above) || (field.whole && !Number.isInteger(value));
    const from = above > -Infinity ? `above ${above}` : `${least} or more`, to = most < Infinity ? ` and at most ${most}` : "";
    if (odd) throw new Error(`${name} has to be ${from}${to}${field.whole ? ", a whole number" : ""}, not ${value}.`);
  }
}
