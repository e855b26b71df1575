// GPT-2's byte-level BPE, equal to `gpt2rt/text/tokenizer.py` and so to OpenAI's `encoder.py`.

import { cut, passes } from "./added.js";
import { merge } from "./merges.js";

const WORD = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const END_OF_TEXT = "<|endoftext|>";
const REMEMBERED = 65_536;  // words

// The character that stands for each byte: itself if it is visible in Latin-1, else one from U+0100 on.
const SYMBOLS = [];
for (let byte = 0, spare = 0x100; byte < 256; byte++) {
  const visible = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  SYMBOLS.push(String.fromCharCode(visible ? byte : spare++));
}
const BYTES = new Map(SYMBOLS.map((symbol, byte) => [symbol, byte]));
const utf8 = new TextEncoder();

export class Tokenizer {
  /** The texts of `encoder.json`, `vocab.bpe` and, if there is one, `special_tokens.json`. */
  constructor(encoder, merges, special) {
    this.encoder = new Map(Object.entries(JSON.parse(encoder)));
    this.ranks = new Map(merges.replace(/\n$/, "").split("\n").slice(1).map((pair, rank) => [pair, rank]));
    this.special = special ? JSON.parse(special) : this.#released();
    this.passes = passes(this.special.tokens);
    const { end_of_text: end, start_of_text: start } = this.special;
    const plain = [end, start, this.encoder.get(END_OF_TEXT)];
    this.control = this.special.tokens.some(token => token.special && token.matched && !plain.includes(token.id));
    this.symbols = new Map(this.special.tokens.map(token => [token.id, symbolsOf(token.text).join("")]));
    for (const [symbol, token] of this.encoder) this.symbols.set(token, symbol);
    this.words = new Map();
  }

  #released() {
    const end = this.encoder.get(END_OF_TEXT);
    const token = { id: end, text: END_OF_TEXT, matched: true, lstrip: false, rstrip: false, single_word: false, special: true, normalized: false };
    return { n_vocab: this.encoder.size, start_of_text: end, end_of_text: end, tokens: [token], prefix_space: false, ends: null, before: [], after: [] };
  }

  /** The tokens that end a text. */
  get ends() {
    return this.special.ends ?? [this.special.end_of_text];
  }

  /** What the model reads for a text as a prompt; for an empty one the token that begins a text. */
  prompt(text) {
    const { before, after, start_of_text: start } = this.special, tokens = this.encode(text);
    return tokens.length ? [...before, ...tokens, ...after] : before.length ? before : [start];
  }

  encode(text) {
    if (/\p{Cs}/u.test(text)) throw new Error("The text has half a surrogate pair; remove it.");
    let parts = text ? [{ text, token: null }] : [];
    for (const pass of this.passes) parts = parts.flatMap(part => [...cut(pass, part, this.control)]);
    return parts.flatMap(part => part.token ?? this.#plain(part.text));
  }

  #plain(text) {
    const whole = this.special.prefix_space && !text.startsWith(" ") ? ` ${text}` : text;
    const tokens = whole.match(WORD).flatMap(word => this.#word(word));
    const beyond = tokens.find(token => token >= this.special.n_vocab);
    if (beyond !== undefined) throw new Error(`The text has token ${beyond}, and the model knows ${this.special.n_vocab} tokens only.`);
    return tokens;
  }

  #word(word) {
    const known = this.words.get(word);
    if (known) return known;
    const tokens = merge(symbolsOf(word), this.ranks).map(symbol => this.encoder.get(symbol));
    if (tokens.includes(undefined)) throw new Error(`The vocabulary has no token for a byte of ${JSON.stringify(word)}; leave it out.`);
    if (this.words.size >= REMEMBERED) this.words.clear();
    this.words.set(word, tokens);
    return tokens;
  }

  /** The bytes of a token, which may be part of a character; none for an id without a symbol. */
  bytes(token) {
    return Uint8Array.from(this.symbols.get(token) ?? "", symbol => BYTES.get(symbol));
  }

  /** The text of a token, with U+FFFD for a part of a character. */
  text(token) {
    return decoder().decode(this.bytes(token));
  }
}

/** Turns bytes into text, as they arrive if told to. */
export const decoder = () => new TextDecoder("utf-8", { ignoreBOM: true });

function symbolsOf(text) {
  return Array.from(utf8.encode(text), byte => SYMBOLS[byte]);
}
