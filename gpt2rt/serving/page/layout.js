// Which characters of a text belong to which of its tokens.

const PART = "\uFFFD";  // stands in a token's own text for a part of a character

/**
 * The characters of `text` that each token shows. The text may be shorter than its tokens: the server
 * holds back what may become a stop string, and half characters. A character over several tokens is
 * the first one's.
 */
export function characters(tokens, text) {
  const found = [];
  for (let index = 0, at = 0; index < tokens.length;) {
    let next = index + 1;
    let end = at + tokens[index].text.length;
    if (tokens[index].text.includes(PART)) {
      while (tokens[next]?.text.includes(PART)) next += 1;
      const after = next < tokens.length ? text.indexOf(tokens[next].text, at) : -1;
      end = after < 0 ? text.length : after;
    }
    found.push(text.slice(at, end), ...Array(next - index - 1).fill(""));
    at = Math.min(end, text.length);
    index = next;
  }
  return found;
}
