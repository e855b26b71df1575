// Steps of the model over one text, whose keys and values stay in its memory.

// Tokens of a prompt that are read at once. Of 32 and more WebGPU's attention adds up in groups of threads, and is
// wrong where these have fewer than 8, as those of adapters in software.
const PIECE = 64, PIECE_ON_GPU = 31;

export class Decoder {
  /** `shape`: `hparams` of the bundle, `kv_width` of a head and `columns` of the logits. */
  constructor(session, shape) {
    const { n_layer, n_head, n_ctx } = shape.hparams;
    Object.assign(this, { session, shape, piece: session.gpu ? PIECE_ON_GPU : PIECE });
    this.read = [];  // the tokens whose keys and values are there
    this.logits = session.tensor("float32", [1, shape.columns]);
    [this.rows, this.lengths] = [1, 2].map(() => session.tensor("int32", [1]));
    this.total = session.tensor("int32", []);
    this.past = {};
    this.present = {};
    for (let layer = 0; layer < n_layer; layer++)
      for (const kind of ["key", "value"]) {
        const tensor = session.kept([1, n_head, n_ctx, shape.kv_width]);
        this.past[`past_${kind}.${layer}`] = this.present[`present_${kind}.${layer}`] = tensor;
      }
    this.single = this.#step(1);
  }

  #step(count) {
    const inputs = Object.fromEntries(
      ["tokens", "positions"].map(name => [name, this.session.tensor("int32", [count])]));
    const sizes = { rows: this.rows, lengths: this.lengths, total_sequence_length: this.total };
    const call = this.session.call({ ...inputs, ...sizes, ...this.past }, { logits: this.logits, ...this.present });
    return { inputs, call };
  }

  /** Logits float32 [n_vocab] after the last of `ids`, which follow what was read. */
  async next(ids) {
    const { inputs, call } = ids.length === 1 ? this.single : this.#step(ids.length);
    const total = this.read.length + ids.length;
    inputs.tokens.values.set(ids);
    inputs.positions.values.set(ids.map((_, index) => this.read.length + index));
    this.rows.values[0] = ids.length - 1;
    this.lengths.values[0] = total - 1;
    this.total.values[0] = total;
    await call.run();
    this.read.push(...ids);
    if (ids.length > 1) {
      call.free();
      for (const tensor of Object.values(inputs)) tensor.free();
    }
    // A copy, since scripts compute several times slower on memory that threads share.
    return this.logits.values.slice(0, this.shape.hparams.n_vocab);
  }

  /** Keep what `ids` have in common with the tokens read; returns the rest, which is never empty. */
  rest(ids) {
    let same = 0;
    while (same < Math.min(this.read.length, ids.length - 1) && this.read[same] === ids[same]) same += 1;
    this.read.length = same;
    return ids.slice(same);
  }
}
