// Penalties and bans: changes of logits that depend on the tokens before, as in `gpt2rt/sampling/history.py`.

export class History {
  /** `ends` may not be drawn before `params.min_tokens` new tokens. */
  constructor(params, prompt, ends) {
    Object.assign(this, { params, ends, tokens: [], counts: new Map(), after: new Map(), drawn: 0 });
    this.penalised = params.repetition_penalty !== 1 || params.frequency_penalty !== 0 || params.presence_penalty !== 0;
    this.active = Boolean(this.penalised || params.no_repeat_ngram || params.min_tokens);
    for (const token of prompt) this.#note(token, 0);
  }

  take(token) {
    this.drawn += 1;
    this.#note(token, 1);
  }

  #note(token, count) {
    this.counts.set(token, (this.counts.get(token) ?? 0) + count);
    this.tokens.push(token);
    const n = this.params.no_repeat_ngram;
    if (!n || this.tokens.length < n) return;
    const key = this.tokens.slice(this.tokens.length - n, -1).join();
    this.after.set(key, (this.after.get(key) ?? new Set()).add(token));
  }

  /** The logits float32 [n_vocab] after penalties and bans; the given ones stay as they are. */
  edited(logits) {
    const changed = logits.slice();
    if (this.penalised) for (const [token, count] of this.counts) changed[token] = this.#penalty(changed[token], count);
    for (const token of this.#banned()) changed[token] = -Infinity;
    return changed;
  }

  #penalty(logit, count) {
    const { repetition_penalty: factor, frequency_penalty: each, presence_penalty: once } = this.params;
    const scaled = Math.fround(logit > 0 ? logit / Math.fround(factor) : logit * Math.fround(factor));
    return scaled - Math.fround(count * Math.fround(each) + (count > 0 ? Math.fround(once) : 0));
  }

  #banned() {
    const n = this.params.no_repeat_ngram;
    const repeating = n && this.tokens.length >= n - 1 ? this.after.get(this.tokens.slice(this.tokens.length - n + 1).join()) : null;
    return [...repeating ?? [], ...this.drawn < this.params.min_tokens ? this.ends : []];
  }
}
