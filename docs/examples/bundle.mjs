// Greedy text from a bundle with onnxruntime-node: node bundle.mjs BUNDLE TEXT COUNT
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";

const [bundle, text, count] = process.argv.slice(2);
const read = (name) => readFileSync(`${bundle}/${name}`, "utf8");

// Bytes as printable characters, and the merges of byte-pair encoding.
const symbol = new Map();
for (let byte = 0, others = 0; byte < 256; byte++) {
  const plain = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  symbol.set(byte, String.fromCharCode(plain ? byte : 256 + others++));
}
const ids = JSON.parse(read("encoder.json"));
const rank = new Map(read("vocab.bpe").split("\n").slice(1).map((merge, i) => [merge, i]));
const WORD = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

function encoded(word) {
  const parts = [...new TextEncoder().encode(word)].map((byte) => symbol.get(byte));
  const order = (i) => rank.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
  for (;;) {
    let best = -1;
    for (let i = 0; i + 1 < parts.length; i++)
      if (order(i) < (best < 0 ? Infinity : order(best))) best = i;
    if (best < 0) return parts.map((part) => ids[part]);
    parts.splice(best, 2, parts[best] + parts[best + 1]);
  }
}

const session = await ort.InferenceSession.create(`${bundle}/model.portable.onnx`);
const positions = 1024;
const held = {};
for (const { name, shape } of session.inputMetadata)
  if (name.startsWith("past_")) {
    const [, heads, , width] = shape;
    const sizes = [1, heads, positions, width];
    held[name] = new ort.Tensor("float32", new Float32Array(heads * positions * width), sizes);
  }
const int32 = (values, sizes) => new ort.Tensor("int32", Int32Array.from(values), sizes);

const tokens = [...text.matchAll(WORD)].flatMap(([word]) => encoded(word));
let [length, fresh] = [0, [...tokens]];
while (tokens.length < count && tokens.at(-1) !== ids["<|endoftext|>"]) {
  const size = fresh.length;
  const made = await session.run({
    X: int32(fresh, [1, size]),
    position: int32(fresh.map((_, i) => length + i), [1, size]),
    lengths: int32([length], [1, 1]), // how many positions of the past count
    rows: int32([size - 1], [1]), // after which tokens logits are wanted
    ...held,
  });
  for (const [name, past] of Object.entries(held)) {
    const { data, dims } = made[name.replace("past_", "")]; // [1, heads, size, width]
    const row = size * dims[3];
    for (let head = 0; head < dims[1]; head++)
      past.data.set(
        data.subarray(head * row, (head + 1) * row),
        (head * positions + length) * dims[3],
      );
  }
  length += size;
  const logits = made.logits.data;
  fresh = [logits.indexOf(logits.reduce((most, value) => Math.max(most, value), -Infinity))];
  tokens.push(...fresh);
}
const byte = new Map([...symbol].map(([number, character]) => [character, number]));
const words = new Map(Object.entries(ids).map(([word, id]) => [id, word]));
const bytes = tokens.flatMap((token) => [...words.get(token)].map((c) => byte.get(c)));
console.log(JSON.stringify({ tokens, text: new TextDecoder().decode(Uint8Array.from(bytes)) }));
