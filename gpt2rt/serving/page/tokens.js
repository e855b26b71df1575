// A text of coloured tokens. Pointing at one, or going to it by keyboard, shows what else was likely.
//
// A cell is { text: its characters in the text, name: its own text, bits, rank, top: [{ text, p }],
// at: where in `top` it is itself, note }; only `text`, `name` and `bits` have to be there.

import { by, make, MARKS, number, percent, visible } from "./dom.js";

const SPOKEN = { " ": "space", "\n": "new line", "\t": "tab" };

const tip = by("tip");
let shown = null;  // { view, span } of the token that the tip is about
let leaving = 0;

/** 0 (expected) to 1 (1 in 65,000 or less). No score is 0. */
export const heat = bits => Math.min(1, (bits ?? 0) / 16);

export class Tokens {
  /** `pick(index, choice)` is called for an alternative; without it they are only shown. */
  constructor(place, { pick = null, near = () => {} } = {}) {
    Object.assign(this, { place, pick, near });
    place.addEventListener("pointerover", event => this.#of(event) && this.open(this.#of(event)));
    place.addEventListener("pointerout", () => later());
    place.addEventListener("focusin", event => this.#of(event) && this.open(this.#of(event)));
    place.addEventListener("focusout", event => tip.contains(event.relatedTarget) || close());
    place.addEventListener("keydown", event => this.#key(event));
    place.addEventListener("click", event => this.#of(event) && this.open(this.#of(event)));
  }

  get spans() {
    return [...this.place.children];
  }

  #of(event) {
    return event.target.closest?.(".t");
  }

  /** Show these cells; those that are there already stay as they are. */
  draw(cells) {
    if (shown?.view === this && !cells.includes(shown.span.cell)) close();
    for (const [index, cell] of cells.entries()) {
      const span = this.place.children[index] ?? this.#span();
      if (span.cell === cell && span.letters === cell.text) continue;
      letters(span, cell.text);
      span.cell = cell;
      span.style.setProperty("--heat", heat(cell.bits).toFixed(3));
      span.classList.toggle("taken", Boolean(cell.taken));
    }
    while (this.place.children.length > cells.length) this.place.lastChild.remove();
    const first = this.place.querySelector('[tabindex="0"]') ?? this.place.firstChild;
    if (first) first.tabIndex = 0;
  }

  #span() {
    const span = make("span", this.place, "", "t");
    span.tabIndex = -1;
    if (this.pick) {
      span.setAttribute("role", "button");
      span.setAttribute("aria-haspopup", "listbox");
      span.setAttribute("aria-expanded", "false");
    }
    return span;
  }

  open(span) {
    clearTimeout(leaving);
    if (shown?.span === span) return;
    close();
    shown = { view: this, span };
    span.classList.add("open");
    span.setAttribute("aria-describedby", "tip-facts");
    if (this.pick) span.setAttribute("aria-expanded", "true");
    fill(span.cell, this.pick && (choice => this.pick(this.spans.indexOf(span), choice)));
    place(span);
    this.near(span.cell);
  }

  focus(index) {
    const span = this.spans[index];
    if (!span) return;
    for (const other of this.place.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    span.tabIndex = 0;
    span.focus();
  }

  #key(event) {
    const here = this.#of(event), spans = this.spans;
    if (!here || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = spans.indexOf(here);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: spans.length - 1 }[event.key];
    if (spans[to]) this.focus(to);
    else if (this.pick && ["ArrowDown", "Enter", " "].includes(event.key)) {
      this.open(here);
      tip.querySelector("[role=option]")?.focus();
    } else if (event.key === "Escape" && shown) {
      event.stopPropagation();
      close();
    } else return;
    event.preventDefault();
  }
}

function letters(span, text) {
  span.letters = text;
  span.replaceChildren();
  for (const part of text.split(/([\n\r\t])/)) {
    if (part in MARKS) make("span", span, MARKS[part], "mark").ariaHidden = "true";
    if (part) span.append(part === "\r" ? "" : part);
  }
  if (!text) make("span", span, "▪", "mark").ariaHidden = "true";  // the rest of a character
  span.ariaLabel = span.hasAttribute("role") && !text.trim() ? spoken(text) : null;
}

function spoken(text) {  // what has nothing to read out
  return [...text].map(character => SPOKEN[character] ?? "white space").join(", ") || "part of a character";
}

function facts(cell) {
  if (cell.bits === null) return "no score: nothing stands before it";
  const rank = cell.rank === undefined ? "" : ` · rank ${cell.rank.toLocaleString("en")}`;
  return `${cell.bits.toFixed(2)} bits · ${percent(2 ** -cell.bits)}${rank}`;
}

function fill(cell, pick) {
  tip.replaceChildren();
  make("code", make("p", tip), visible(cell.name));
  make("p", tip, facts(cell), "facts").id = "tip-facts";
  if (!cell.top?.length) return;
  const list = make("ul", tip);
  if (pick) {
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Go on with another token");
  }
  for (const [index, choice] of cell.top.entries()) {
    const row = make("li", list, "", index === cell.at ? "this" : "");
    make("code", row, visible(choice.text));
    make("span", row, choice.note ?? percent(choice.p));
    row.style.setProperty("--share", (100 * choice.p).toFixed(2) + "%");
    if (!pick) continue;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(index === cell.at));
    row.tabIndex = -1;
    row.addEventListener("click", () => pick(choice));
  }
}

function place(span) {
  tip.hidden = false;
  const box = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = Math.max(8, Math.min(box.left, room)) + scrollX + "px";
  const below = box.bottom + tip.offsetHeight + 8 < innerHeight || box.top < tip.offsetHeight + 8;
  tip.style.top = (below ? box.bottom + 4 : box.top - tip.offsetHeight - 4) + scrollY + "px";
}

export function close() {
  clearTimeout(leaving);
  tip.hidden = true;
  if (!shown) return;
  const { view, span } = shown;
  shown = null;
  span.classList.remove("open");
  span.removeAttribute("aria-describedby");
  if (view.pick) span.setAttribute("aria-expanded", "false");
  view.near(null);
}

function later() {  // time to get from the token into the tip
  clearTimeout(leaving);
  leaving = setTimeout(() => {
    const focused = document.activeElement;
    if (!tip.contains(focused) && focused !== shown?.span) close();
  }, 200);
}

tip.addEventListener("pointerover", () => clearTimeout(leaving));
tip.addEventListener("pointerout", later);
tip.addEventListener("focusout", event => {
  if (!tip.contains(event.relatedTarget) && event.relatedTarget !== shown?.span) close();
});
tip.addEventListener("keydown", event => {
  const options = [...tip.querySelectorAll("[role=option]")], at = options.indexOf(document.activeElement);
  const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: options.length - 1 }[event.key];
  if (event.key === "Escape" || to === -1) shown?.span.focus();
  else if (event.key === "Enter" || event.key === " ") options[at]?.click();
  else if (event.key === "Tab") close();
  else if (options[to]) options[to].focus();
  else return;
  event.stopPropagation();
  if (event.key !== "Tab") event.preventDefault();
});
document.addEventListener("pointerdown", event => {
  if (shown && !tip.contains(event.target) && !event.target.closest?.(".t")) close();
});
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && shown) close();
});
