// Drawing, scale by scale (varmini/model/sampler.py and filters.py).

import { add } from "./tensors.js";
import { softmax } from "./transformer.js";

/** Rules out all but the topK likeliest, then all outside the nucleus topP; 0 keeps all. */
export function probabilities(logits, topK = 0, topP = 0) {
  const p = softmax(Float64Array.from(logits));
  const ordered = p.slice().sort(); // numerically, as typed arrays do
  const vocab = p.length;
  let least = 0 < topK && topK < vocab ? ordered[vocab - topK] : ordered[0];
  if (0 < topP && topP < 1) {
    // From the least likely upwards: a token goes when it and all below it hold at most 1 - p.
    const total = ordered.reduce((sum, v) => sum + (v >= least ? v : 0), 0);
    let held = 0;
    let at = 0;
    for (; at < vocab - 1; at++) {
      held += ordered[at] >= least ? ordered[at] : 0;
      if (held > (1 - topP) * total) break;
    }
    least = ordered[at];
  }
  const kept = p.map((v) => (v < least ? 0 : v));
  const sum = kept.reduce((a, b) => a + b, 0);
  return kept.map((v) => v / sum);
}

/** The first token whose cumulative probability exceeds a uniform number. */
export function draw(p, uniform) {
  let cumulative = 0;
  let last = 0;
  for (let token = 0; token < p.length; token++) {
    if (p[token] > 0) last = token;
    cumulative += p[token];
    if (cumulative > uniform) return token;
  }
  return last;
}

/** Uniform numbers in [0, 1), those of torch.rand: Python draws the same picture from a seed. */
export class Uniform {
  constructor(seed) {
    // varmini.model.sampler.Noise: image 0 of a draw has the generator (seed * 1000003) mod 2^32.
    this.state = new Uint32Array(624);
    this.state[0] = Math.imul(seed >>> 0, 1_000_003);
    for (let i = 1; i < 624; i++) {
      const before = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(before, 1812433253) + i;
    }
    this.at = 624;
  }

  next() {
    if (this.at === 624) this.twist();
    let y = this.state[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return (y & 0xffffff) / 2 ** 24;
  }

  twist() {
    const { state } = this;
    for (let i = 0; i < 624; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.at = 0;
  }
}

/** Of the masked-out positions of a picture, side x side: which cells of an h x w map are kept. */
export function keptCells(keep, side, h, w) {
  if (h * w <= 3) return Array(h * w).fill(true); // such maps say what the whole picture is
  const along = (n) => Array.from({ length: n }, (_, i) => ((i + 0.5) * side) / n - 0.5);
  const at = (y, x) => {
    // bilinear, as torch's F.interpolate without antialiasing
    const [y0, x0] = [Math.floor(y), Math.floor(x)];
    const [y1, x1] = [Math.min(y0 + 1, side - 1), Math.min(x0 + 1, side - 1)];
    const row = (r) => keep[r * side + x0] * (1 - x + x0) + keep[r * side + x1] * (x - x0);
    return row(y0) * (1 - y + y0) + row(y1) * (y - y0);
  };
  return along(h).flatMap((y) => along(w).map((x) => at(y, x) > 0.5));
}

/**
 * Draws one picture: yields {k, tokens, logits, hidden, before, fHat, attention} of every scale.
 * `hidden` is what the head reads, with the class and without; `before` is f_hat without scale k.
 *
 * @param force  (k, drawn tokens) -> the tokens that are used: repainting and in-painting.
 */
export function* generate(tok, net, options) {
  const { label, cfg = 1.5, topK = 900, topP = 0.96, uniform, force = (k, drawn) => drawn } = options;
  const scales = tok.grids.length;
  const streams = [net.begin(label)];
  if (cfg !== 0) streams.push(net.begin(net.about.num_classes));
  let codes = null;
  let fHat = new Float32Array(tok.h * tok.w * tok.channels);
  for (let k = 0; k < scales; k++) {
    const [own, other] = streams.map((stream) => net.step(stream, k, codes));
    const t = (cfg * k) / Math.max(1, scales - 1);
    // The head is linear, so guiding what it reads guides the logits.
    const hidden = other ? own.map((v, i) => (1 + t) * v - t * other[i]) : own;
    const logits = net.logits(hidden);
    const vocab = net.about.vocab_size;
    const drawn = Array.from({ length: logits.length / vocab }, (_, i) =>
      draw(probabilities(logits.subarray(i * vocab, (i + 1) * vocab), topK, topP), uniform()),
    );
    const tokens = force(k, drawn);
    const before = fHat;
    fHat = add(before, tok.contribution(k, tokens));
    yield { k, tokens, logits, hidden: [own, other ?? own], before, fHat, attention: streams[0].attention[k] };
    if (k + 1 < scales) codes = tok.down(fHat, k + 1);
  }
}
