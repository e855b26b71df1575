// Finds added tokens in a text, as `gpt2rt/text/added_tokens.py` does: in two passes, longest first.

const LETTER = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200c\\u200d]";
const BEFORE = new RegExp(`${LETTER}$`, "u"), AFTER = new RegExp(`^${LETTER}`, "u");

/** The passes for the tokens of `special_tokens.json`: at most two, none of them without tokens. */
export function passes(tokens) {
  return [false, true].map(normalized => tokens.filter(token => token.matched && token.normalized === normalized))
    .filter(group => group.length).map(group => {
      const texts = group.map(token => token.text).sort((a, b) => [...b].length - [...a].length);
      const pattern = new RegExp(texts.map(text => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")).join("|"), "gu");
      return { known: new Map(group.map(token => [token.text, token])), pattern };
    });
}

/** Split a part { text, token } into added tokens and the text between them; control tokens only if `special`. */
export function* cut({ known, pattern }, part, special) {
  if (part.token !== null) return yield part;
  const { text } = part;
  let done = 0;
  for (const found of text.matchAll(pattern)) {
    const token = known.get(found[0]);
    let start = found.index, end = start + found[0].length;
    const alone = !BEFORE.test(text.slice(Math.max(0, start - 2), start)) && !AFTER.test(text.slice(end));
    if ((token.special && !special) || (token.single_word && !alone)) continue;
    if (token.lstrip) start = Math.max(done, text.slice(0, start).search(/\p{White_Space}*$/u));
    if (token.rstrip) end += text.slice(end).match(/^\p{White_Space}*/u)[0].length;
    if (start >= end) continue;  // the token before it took the white space
    if (done < start) yield { text: text.slice(done, start), token: null };
    yield { text: text.slice(Math.max(start, done), end), token: token.id };
    done = end;
  }
  if (done < text.length) yield { text: text.slice(done), token: null };
}
