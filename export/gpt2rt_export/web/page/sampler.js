// Draws tokens as `gpt2rt/sampling/sampling.py` does: the same seed gives the same text.

import { candidates, clamped, largest, pick, softmax, sum } from "./filters.js";
import { uniforms } from "./philox.js";

const TRIES = 12;  // draws before the exact weights of all tokens are computed
const NUMBERS = 2 * TRIES + 1;  // random numbers for each token
const SMALL = 0.25;  // below this top-p, tokens of small weight are left out before the first try
const SORTED = 4096, SPARSE = 32;  // of more weights, every so-many-th is looked at
const ROUNDING = 1 + 1e-4, EXCESS = 2 / (Math.E * Math.LN2) * ROUNDING;
const ONE_OCTAVE = 1 << 23, WEIGHT_ONE = 127 << 23;  // in the bits of a float32: a factor of 2, and 1

/** The `n`-th new token of a text, by logits float32 [n_vocab] after penalties and bans. */
export function draw(logits, params, n) {
  const best = largest(logits);
  if (logits[best] === -Infinity) throw new Error("No token is left to draw: the settings together rule out every one.");
  if (!Number.isFinite(logits[best])) throw new Error("The model's logits are not finite: its files are damaged.");
  if (params.temperature === 0) return best;
  const numbers = uniforms(params.seed, n * NUMBERS, NUMBERS);
  if ((0 < params.top_k && params.top_k < logits.length) || params.typical_p < 1) return picked(logits, params, numbers.at(-1));
  return tried(logits, best, params, numbers);
}

function picked(logits, params, uniform) {
  const { ids, weights } = candidates(logits, params);
  const index = pick(weights, uniform);
  return ids ? ids[index] : index;
}

/** Rejection sampling: tokens are drawn by upper bounds of their weights, and kept or not by exact ones. */
function tried(logits, best, params, numbers) {
  const temperature = clamped(params.temperature), bounded = bounds(logits, logits[best], temperature);
  const total = sum(bounded);
  let [ids, above, out, weights] = [null, bounded, 0, null];
  if (params.top_p < SMALL) [ids, above] = heavy(ids, above, 0, total, params);
  for (let place = 0; place < TRIES; place++) {
    const index = pick(above, numbers[2 * place]), token = ids ? ids[index] : index;
    if (above[index] < out) continue;
    const weight = Math.exp((logits[token] - logits[best]) / temperature);
    if (numbers[2 * place + 1] * ROUNDING * above[index] >= weight) continue;
    let kept = weight >= params.min_p;
    if (kept && params.top_p < 1 && token !== best) kept = inNucleus(token, weights ??= softmax(logits, temperature), params);
    if (kept) return token;
    out = above[index];
    if (params.top_p < SMALL || weight < params.min_p) [ids, above] = heavy(ids, above, out, total, params);
  }
  return picked(logits, params, numbers.at(-1));
}

function inNucleus(token, weights, params) {
  const own = weights[token];
  let before = 0;
  for (let other = 0; other < weights.length; other++)
    if (weights[other] > own || (weights[other] === own && other < token)) before += weights[other];
  return before < params.top_p * sum(weights);
}

/** The tokens that top-p and min-p may keep, and their bounds. */
function heavy(ids, above, out, total, params) {
  const least = Math.max(out, Math.fround(params.min_p / ROUNDING));
  const enough = params.top_p < 1 ? params.top_p * total * EXCESS : Infinity;
  const guess = Math.max(least, reached(above, enough));
  let kept = indices(above, guess), rest = kept.map(index => above[index]);
  if (guess > least && sum(rest) <= enough) {
    kept = indices(above, least);
    rest = kept.map(index => above[index]);
  }
  ids = ids ? kept.map(index => ids[index]) : kept;
  if (rest.length <= SORTED && SORTED < above.length && sum(rest) > 1.5 * enough) return heavy(ids, rest, out, total, params);
  return [ids, rest];
}

function indices(above, least) {
  const found = [];
  for (let index = 0; index < above.length; index++) if (above[index] >= least) found.push(index);
  return found;
}

/** An estimate, rather too low, of the weight at which the sum, largest first, reaches `wanted`. */
function reached(weights, wanted) {
  if (wanted === Infinity) return 0;
  const every = weights.length > SORTED ? SPARSE : 1;
  const sample = Float32Array.from(weights).filter((_, index) => index % every === 0).sort().reverse();
  let place = 0;
  for (let total = 0; place < sample.length; place++) {
    total += sample[place];
    if (total * every >= wanted) break;
  }
  place += every > 1 ? 2 * Math.floor(Math.sqrt(place)) + 8 : 1;
  return place < sample.length ? sample[place] : 0;
}

/** Upper bounds of weights, at most EXCESS times as large: powers of 2, interpolated as the bits of a float32 are. */
function bounds(logits, best, temperature) {
  const factor = Math.fround(ONE_OCTAVE / Math.LN2 / temperature), bits = new Int32Array(logits.length);
  for (let token = 0; token < logits.length; token++)
    bits[token] = Math.max(Math.fround(Math.fround(Math.fround(logits[token] - best) * factor) + WEIGHT_ONE), 0);
  return new Float32Array(bits.buffer);
}
