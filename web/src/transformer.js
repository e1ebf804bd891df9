// The transformer of VAR, one scale at a time (varmini/model/transformer.py).

import { add, linear, modulate } from "./tensors.js";

const LARGEST = Math.log(100);

export class Transformer {
  constructor(about, tensors) {
    const { width, depth, heads } = about;
    Object.assign(this, { about, tensors, width, depth, heads, size: width / heads });
    this.starts = [0];
    for (const [h, w] of about.grids) this.starts.push(this.starts.at(-1) + h * w);
  }

  get(name) {
    return this.tensors.get(`var.${name}`);
  }

  linear(x, name) {
    return linear(x, this.get(`${name}.weight`), this.get(`${name}.bias`));
  }

  /** What the class decides, and an empty cache: one stream of keys and values a block. */
  begin(label) {
    const { width, depth } = this;
    const embedded = this.get("class_embedding.weight").data.subarray(
      label * width,
      (label + 1) * width,
    );
    const gate = Float32Array.from(embedded, (v) => v / (1 + Math.exp(-v)));
    const modulations = this.linear(gate, "modulation");
    const part = (from, i) => from.subarray(i * width, (i + 1) * width);
    return {
      start: add(embedded, this.get("start_position").data),
      blocks: Array.from({ length: depth }, (_, b) =>
        Array.from({ length: 6 }, (_, i) => part(modulations, 6 * b + i)),
      ),
      head: ((both) => [part(both, 0), part(both, 1)])(this.linear(gate, "head_modulation")),
      cache: Array.from({ length: depth }, () => ({ keys: [], values: [] })),
      attention: [],
    };
  }

  /** Scale k of a stream: input codes (l, C), or null at the first -> what the head reads (l, w). */
  step(stream, k, codes) {
    let x = codes ? this.linear(codes, "word") : stream.start.slice();
    const { width } = this;
    const position = this.get("position").data.subarray(this.starts[k] * width);
    const level = this.get("level_embedding.weight").data.subarray(k * width);
    for (let i = 0; i < x.length; i++) x[i] += position[i] + level[i % width];
    stream.attention[k] = [];
    for (let b = 0; b < this.depth; b++) x = this.block(stream, k, b, x);
    return modulate(x, ...stream.head);
  }

  logits(hidden) {
    return this.linear(hidden, "head");
  }

  block(stream, k, b, x) {
    const [gamma1, gamma2, s1, s2, b1, b2] = stream.blocks[b];
    const { width } = this;
    const mixed = this.attention(stream, k, b, modulate(x, s1, b1));
    x = x.map((v, i) => v + gamma1[i % width] * mixed[i]);
    const hidden = this.linear(modulate(x, s2, b2), `blocks.${b}.fc1`).map(gelu);
    const fed = this.linear(hidden, `blocks.${b}.fc2`);
    return x.map((v, i) => v + gamma2[i % width] * fed[i]);
  }

  /** Attends to this scale and all before it; keeps the weights, (heads, l, seen), for the page. */
  attention(stream, k, b, x) {
    const { width, heads, size } = this;
    const name = `blocks.${b}.attention`;
    const qkv = linear(x, this.get(`${name}.qkv.weight`));
    const [qBias, vBias] = [this.get(`${name}.q_bias`).data, this.get(`${name}.v_bias`).data];
    const { keys, values } = stream.cache[b];
    const queries = [];
    for (let at = 0; at < qkv.length; at += 3 * width) {
      const row = qkv.subarray(at, at + 3 * width);
      queries.push(this.unit(row.subarray(0, width).map((v, i) => v + qBias[i])));
      keys.push(this.unit(row.slice(width, 2 * width)));
      values.push(row.subarray(2 * width).map((v, i) => v + vBias[i]));
    }
    const seen = keys.length;
    const weights = new Float32Array(heads * queries.length * seen);
    const out = new Float32Array(queries.length * width);
    for (let head = 0; head < heads; head++) {
      const from = head * size;
      const temperature = Math.exp(Math.min(LARGEST, this.get(`${name}.log_scale`).data[head]));
      queries.forEach((query, q) => {
        const row = weights.subarray((head * queries.length + q) * seen).subarray(0, seen);
        for (let j = 0; j < seen; j++) {
          for (let i = from; i < from + size; i++) row[j] += query[i] * keys[j][i];
          row[j] *= temperature;
        }
        softmax(row);
        for (let j = 0; j < seen; j++) {
          for (let i = from; i < from + size; i++) out[q * width + i] += row[j] * values[j][i];
        }
      });
    }
    stream.attention[k][b] = weights;
    return this.linear(out, `${name}.proj`);
  }

  /** Every head's part of a vector, brought to unit length in place. */
  unit(vector) {
    for (let at = 0; at < vector.length; at += this.size) {
      let squares = 0;
      for (let i = at; i < at + this.size; i++) squares += vector[i] ** 2;
      const norm = Math.max(1e-12, Math.sqrt(squares));
      for (let i = at; i < at + this.size; i++) vector[i] /= norm;
    }
    return vector;
  }
}

function gelu(v) {
  return 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)));
}

/** Turns logits into probabilities, in place. */
export function softmax(row) {
  const largest = row.reduce((a, b) => Math.max(a, b));
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += row[i] = Math.exp(row[i] - largest);
  for (let i = 0; i < row.length; i++) row[i] /= sum;
  return row;
}
