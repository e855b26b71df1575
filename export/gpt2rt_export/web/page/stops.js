// Finds strings that end a text which arrives in pieces, and holds back what may become one.

export class Stops {
  constructor(strings) {
    Object.assign(this, { strings, text: "", told: 0, match: null });
  }

  /** Add a piece; returns the text that is final now. `match` is the string that ended it, if one did. */
  push(piece) {
    for (const character of piece) {
      this.text += character;
      const ended = this.strings.filter(string => this.text.endsWith(string, this.text.length));
      if (ended.length) {
        this.match = ended.reduce((a, b) => b.length > a.length ? b : a);
        return this.#until(this.text.length - this.match.length);
      }
    }
    return this.#until(this.text.length - this.#open());
  }

  /** The text that was held back, at the end. */
  close() {
    return this.#until(this.text.length);
  }

  #open() {  // the length of the longest end of the text that begins a string
    let open = 0;
    for (const string of this.strings)
      for (let length = Math.min(string.length - 1, this.text.length); length > open; length--)
        if (this.text.endsWith(string.slice(0, length))) open = length;
    return open;
  }

  #until(end) {
    const text = this.text.slice(this.told, end);
    this.told = Math.max(this.told, end);
    return text;
  }
}
