// Filters and the draw over one row of logits, as `gpt2rt/sampling/filters.py` has them.
//
// Candidates are { ids, weights }: float32 weights, the largest of which is 1; `ids` null: all tokens.

const FEW = 512;  // up to so many, the largest are found without sorting all
const LEAST_TEMPERATURE = 1e-20, MOST_TEMPERATURE = 1e20;

export const clamped = temperature => Math.min(Math.max(temperature, LEAST_TEMPERATURE), MOST_TEMPERATURE);

export function sum(weights) {  // a loop: over a vocabulary, calls and iterators would take longer than the model
  let total = 0;
  for (let index = 0; index < weights.length; index++) total += weights[index];
  return total;
}

export function largest(logits) {
  let best = 0;
  for (let token = 1; token < logits.length; token++) if (logits[token] > logits[best] || Number.isNaN(logits[token])) best = token;
  return best;
}

/** The tokens that may be drawn, and their weights; those of weight 0 may not. */
export function candidates(logits, params) {
  const ids = 0 < params.top_k && params.top_k < logits.length ? keepTopK(logits, params.top_k) : null;
  const kept = ids ? Float32Array.from(ids, token => logits[token]) : logits;
  return { ids, weights: filtered(softmax(kept, params.temperature), params) };
}

export function filtered(weights, params) {
  if (params.top_p < 1) weights = only(weights, inTopP(weights, params.top_p));
  if (params.min_p > 0) weights = only(weights, Array.from(weights, weight => weight >= Math.fround(params.min_p)));
  if (params.typical_p < 1) weights = only(weights, inTypicalP(weights, params.typical_p));
  return weights;
}

const only = (weights, inside) => weights.map((weight, index) => inside[index] ? weight : 0);

export function softmax(logits, temperature) {
  const best = logits[largest(logits)], divisor = Math.fround(clamped(temperature)), weights = new Float32Array(logits.length);
  for (let index = 0; index < logits.length; index++)
    weights[index] = Math.exp(Math.fround(Math.fround(logits[index] - best) / divisor));
  return weights;
}

function keepTopK(logits, k) {  // and all ties of the k-th
  const least = kthLargest(logits, k), ids = [];
  for (let token = 0; token < logits.length; token++) if (logits[token] >= least) ids.push(token);
  return ids;
}

function kthLargest(logits, k) {
  if (k > FEW) return Float32Array.from(logits).sort()[logits.length - k];
  const best = logits.slice(0, k).sort();  // the k largest so far, the least first
  for (let token = k; token < logits.length; token++) {
    if (!(logits[token] > best[0])) continue;
    let at = 0;
    for (; at + 1 < k && best[at + 1] < logits[token]; at++) best[at] = best[at + 1];
    best[at] = logits[token];
  }
  return best[0];
}

/** The nucleus: the fewest tokens of largest weight with a share of p; of equals those with lower ids. */
function inTopP(weights, p) {
  const order = sorted(weights, index => -weights[index]);
  return first(order, index => weights[index], p * sum(weights), weights.length);
}

/** The tokens nearest to the expected surprisal, with a share of p together. */
function inTypicalP(weights, p) {
  const total = sum(weights), able = sorted(weights, () => 0).filter(index => weights[index] > 0);
  const share = index => weights[index] / total, surprisal = index => -Math.log(share(index));
  const mean = able.reduce((sum, index) => sum + share(index) * surprisal(index), 0);
  const distances = new Map(able.map(index => [index, Math.abs(surprisal(index) - mean)]));
  return first(able.sort((a, b) => distances.get(a) - distances.get(b) || a - b), share, p, weights.length);
}

function sorted(weights, key) {
  return Array.from(weights, (_, index) => index).sort((a, b) => key(a) - key(b) || a - b);
}

/** Which indices are the first in `order` whose amounts reach `wanted`. */
function first(order, amount, wanted, length) {
  const inside = new Uint8Array(length);
  let reached = 0;
  for (const index of order) {
    inside[index] = 1;
    reached += amount(index);
    if (reached >= wanted) break;
  }
  return inside;
}

/** The index at which the running sum of weights exceeds `uniform` times the total. */
export function pick(weights, uniform) {
  const wanted = uniform * sum(weights);
  let reached = 0, last = 0;
  for (let index = 0; index < weights.length; index++) {
    reached += weights[index];
    if (weights[index] > 0) last = index;
    if (reached > wanted) return index;
  }
  return last;  // by rounding the sum ends just below
}
