// Continues a text: the events of `gpt2rt serve`'s /v1/completions, made here.

import { History } from "./history.js";
import { draw } from "./sampler.js";
import { Stops } from "./stops.js";
import { decoder } from "./tokenizer.js";

/**
 * Yields { text, tokens, stop_details } for each new token of a text whose tokens are `body.prompt`. Other
 * fields are those of the endpoint; `temperature` 0 takes the likeliest token.
 */
export async function* written(model, tokenizer, body, pause) {
  const room = model.shape.hparams.n_ctx - body.prompt.length + 1;
  if (room < 1) throw new Error(
    `The text has ${body.prompt.length} tokens, and the model's context holds ${room + body.prompt.length - 1}; shorten it.`);
  const text = new Text(tokenizer, body.stop ?? []), history = new History(body, body.prompt, tokenizer.ends);
  let logits = null;
  for (let rest = model.rest(body.prompt); rest.length; rest = rest.slice(model.piece)) {
    logits = await model.next(rest.slice(0, model.piece));
    await pause();
  }
  for (let count = 0; ; logits = await model.next([text.last])) {
    const token = draw(history.active ? history.edited(logits) : logits, body, count);
    if (tokenizer.ends.includes(token)) return yield text.end("end_of_text", token);
    history.take(token);
    count += 1;
    const shown = body.return_tokens ? told(tokenizer, logits, token, body.top_logprobs) : { id: token };
    const event = text.add(shown);
    if (text.stops.match !== null) return yield event;
    if (count >= body.max_tokens) return yield text.end("length", null, event);
    if (count >= room) return yield text.end("context", null, event);
    yield event;
    await pause();
  }
}

class Text {
  constructor(tokenizer, strings) {
    Object.assign(this, { tokenizer, stops: new Stops(strings), utf8: decoder(), last: null });
  }

  add(told) {
    this.last = told.id;
    const text = this.stops.push(this.utf8.decode(this.tokenizer.bytes(told.id), { stream: true }));
    const by = this.stops.match;
    return { text, tokens: [told], ...by !== null && { stop_details: { reason: "stop_string", by } } };
  }

  end(reason, by, event = { text: "", tokens: [] }) {
    let text = event.text + this.stops.push(this.utf8.decode());
    if (this.stops.match !== null) [reason, by] = ["stop_string", this.stops.match];
    else text += this.stops.close();
    return { ...event, text, stop_details: { reason, by } };
  }
}

/** A token with its log-probability and the likeliest ones at its place: the model's own, before all settings. */
function told(tokenizer, logits, token, count) {
  const best = likeliest(logits, count), most = logits[best[0] ?? token];
  let total = 0;
  for (let other = 0; other < logits.length; other++) total += Math.exp(logits[other] - most);
  const likely = id => ({ id, text: tokenizer.text(id), logprob: logits[id] - most - Math.log(total) });
  return { ...likely(token), top: best.map(likely) };
}

function likeliest(logits, count) {  // of equals the one with the least id is first
  const best = [];
  for (let token = 0; token < logits.length; token++) {
    if (best.length === count && !(logits[token] > logits[best[count - 1]])) continue;
    let at = best.length < count ? best.length : count - 1;
    for (; at > 0 && logits[token] > logits[best[at - 1]]; at--) best[at] = best[at - 1];
    best[at] = token;
  }
  return best;
}
