// Byte-pair encoding: neighbouring symbols are merged, the pair of the lowest rank first.

/** Merge symbols until no pair of neighbours has a rank in the Map `ranks` ("left right" -> rank), in n log n steps. */
export function merge(symbols, ranks) {
  const word = [...symbols, ""], before = word.map((_, at) => at - 1), after = word.map((_, at) => at + 1);
  const starts = new Map(), order = new Heap();  // rank -> where a pair of it starts, or did; the ranks
  const rankAt = (i, j) => ranks.get(`${word[i]} ${word[j]}`);

  function note(i, j) {
    const rank = rankAt(i, j);
    if (rank === undefined) return;
    if (starts.has(rank)) return void starts.get(rank).push(i);
    starts.set(rank, [i]);
    order.push(rank);
  }

  for (let i = 0; i < word.length - 1; i++) note(i, i + 1);
  while (order.length) {
    const rank = order.pop(), places = starts.get(rank).sort((a, b) => a - b);
    starts.delete(rank);
    for (const i of places) {
      const j = after[i];
      if (rankAt(i, j) !== rank) continue;
      word[i] += word[j];
      word[j] = "";
      after[i] = after[j];
      before[after[i]] = i;
      if (before[i] >= 0) note(before[i], i);
      note(i, after[i]);
    }
  }
  return word.filter(Boolean);
}

/** Numbers, of which the least comes out first. */
class Heap {
  #items = [];

  get length() {
    return this.#items.length;
  }

  push(item) {
    const items = this.#items;
    let at = items.push(item) - 1;
    for (let up = (at - 1) >> 1; at > 0 && items[up] > item; up = (at - 1) >> 1) [items[at], at] = [items[up], up];
    items[at] = item;
  }

  pop() {
    const items = this.#items, least = items[0], last = items.pop();
    if (!items.length) return least;
    let at = 0;
    for (let down = 1; down < items.length; down = 2 * at + 1) {
      if (items[down + 1] < items[down]) down += 1;
      if (items[down] >= last) break;
      [items[at], at] = [items[down], down];
    }
    items[at] = last;
    return least;
  }
}
