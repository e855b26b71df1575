// Random numbers of a seed: those of NumPy's Philox, a counter-based generator (Salmon et al. 2011).

const WORD = (1n << 64n) - 1n;
const MULTIPLIERS = [0xD2E7470EE14C6C93n, 0xCA5A826395121157n];
const BUMPS = [0x9E3779B97F4A7C15n, 0xBB67AE8584CAA73Bn];
const ROUNDS = 10;

/** Four words of 64 bits for a counter and a key, which are BigInts. */
export function block(counter, key) {
  let [a, b, c, d] = [counter & WORD, counter >> 64n, 0n, 0n];
  let [k, l] = key;
  for (let round = 0; round < ROUNDS; round++) {
    const first = MULTIPLIERS[0] * a, second = MULTIPLIERS[1] * c;
    [a, b, c, d] = [second >> 64n ^ b ^ k, second & WORD, first >> 64n ^ d ^ l, first & WORD];
    [k, l] = [k + BUMPS[0] & WORD, l + BUMPS[1] & WORD];
  }
  return [a, b, c, d];
}

/** `count` numbers in [0, 1) from the `start`-th on: those of `Generator(Philox(key=[seed, 0])).random`. */
export function uniforms(seed, start, count) {
  const found = [], key = [BigInt(seed), 0n];
  for (let at = start, words = null; at < start + count; at++) {
    if (!words || at % 4 === 0) words = block(BigInt(Math.floor(at / 4) + 1), key);
    found.push(Number(words[at % 4] >> 11n) / 2 ** 53);
  }
  return found;
}
