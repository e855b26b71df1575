// The worker that has the model: opens it, and answers the page's requests one after the other.

import { Decoder } from "./decoder.js";
import { load } from "./files.js";
import { Session } from "./session.js";
import { Tokenizer } from "./tokenizer.js";
import { written } from "./writer.js";

const RUNTIME = "runtime/ort-wasm-simd-threaded";

let opened;  // a promise of { tokenizer, decoder }
const stopped = new Set();  // the requests that nobody waits for any more
let line = Promise.resolve();  // of the requests: the model has one text

async function open({ about, root, threads }) {
  const files = await load(about.files, root, (done, total) => postMessage({ kind: "progress", done, total }));
  postMessage({ kind: "progress" });
  const text = name => files.has(name) ? new TextDecoder().decode(files.get(name)) : null;
  const tokenizer = new Tokenizer(text("model/encoder.json"), text("model/vocab.bpe"), text("model/special_tokens.json"));
  const { default: factory } = await import(new URL(`${RUNTIME}.mjs`, root));
  const session = await Session.open(
    factory, files.get(`${RUNTIME}.wasm`), files.get("model/model.onnx"), files.get("model/weights.bin"), threads);
  const decoder = new Decoder(session, about);
  decoder.next([tokenizer.special.start_of_text]);  // the first step is slower than all others
  return { tokenizer, decoder };
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
