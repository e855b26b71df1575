// The worker that has the model: opens it, and answers the page's requests one after the other.

import { Decoder } from "./decoder.js";
import { load } from "./files.js";
import { Session } from "./session.js";
import { Tokenizer } from "./tokenizer.js";
import { written } from "./writer.js";

let opened;  // a promise of { tokenizer, decoder }
const stopped = new Set();  // the requests that nobody waits for any more
let line = Promise.resolve();  // of the requests: the model has one text

async function open({ about, root, device, threads }) {
  const { runtime, graph } = about.devices[device], others = Object.keys(about.devices).filter(name => name !== device);
  const left = others.flatMap(name => [`${about.devices[name].runtime}.wasm`, about.devices[name].graph]);
  const files = await load(about.files, left, root, (done, total) => postMessage({ kind: "progress", done, total }));
  postMessage({ kind: "progress" });
  const text = name => files.has(name) ? new TextDecoder().decode(files.get(name)) : null;
  const tokenizer = new Tokenizer(text("model/encoder.json"), text("model/vocab.bpe"), text("model/special_tokens.json"));
  const { default: factory } = await import(new URL(`${runtime}.mjs`, root)), weights = files.get("model/weights.bin");
  if (device === "webgpu") about.tiles.forEach(tiles => toRows(weights, ...tiles));
  const session = await Session.open(factory, files.get(`${runtime}.wasm`), files.get(graph), weights, device, threads);
  const decoder = new Decoder(session, about);
  await decoder.next([tokenizer.special.start_of_text]);  // the first step is slower than all others
  return { tokenizer, decoder };
}

/** Makes rows [N,K] of the tiles [count,K,width] of a matrix, in place. */
function toRows(weights, offset, count, k, width) {
  for (let tile = 0; tile < count; tile++) {
    const place = weights.subarray(offset + tile * k * width, offset + (tile + 1) * k * width), before = place.slice();
    for (let row = 0; row < width; row++) for (let at = 0; at < k; at++) place[row * k + at] = before[at * width + row];
  }
}

const ANSWERS = {
  async *tokenize({ text }) {
    yield { prompt: (await opened).tokenizer.prompt(text) };
  },
  async *write(body, id) {
    const { tokenizer, decoder } = await opened;
    for await (const event of written(decoder, tokenizer, body, pause)) {
      if (stopped.has(id)) return;
      yield event;
    }
  },
};

const turns = new MessageChannel();

/** Lets messages in that came meanwhile. A timer would wait for 4 ms. */
function pause() {
  return new Promise(resolve => {
    turns.port1.onmessage = resolve;
    turns.port2.postMessage(null);
  });
}

async function answer({ id, kind, body }) {
  try {
    for await (const event of ANSWERS[kind](body, id)) postMessage({ id, event });
    postMessage({ id, done: true });
  } catch (error) {
    postMessage({ id, error: error.message ?? String(error) });
  }
  stopped.delete(id);
}

addEventListener("message", ({ data }) => {
  if (data.kind === "open") {
    opened = open(data);
    opened.then(() => postMessage({ kind: "opened" }), error => postMessage({ kind: "failed", error: error.message ?? String(error) }));
  } else if (data.kind === "stop") stopped.add(data.id);
  else line = line.then(() => answer(data));
});
