// The tokenizer: encoder, multi-scale quantizer and decoder (varmini/model/tokenizer.py).

import { add, conv, linear, normSilu, overPositions } from "./tensors.js";

export class Tokenizer {
  constructor(about, tensors) {
    Object.assign(this, { about, tensors, grids: about.grids, channels: about.code_channels });
    [this.h, this.w] = about.grids.at(-1);
    this.codebook = tensors.get("tok.quantizer.codebook.weight");
    const codes = this.codebook.data;
    this.codeNorms = Float64Array.from({ length: about.vocab_size }, (_, j) => {
      let sum = 0;
      for (let c = j * this.channels; c < (j + 1) * this.channels; c++) sum += codes[c] ** 2;
      return sum;
    });
  }

  get(name) {
    return this.tensors.get(`tok.${name}`);
  }

  conv(map, name, options) {
    return conv(map, this.get(`${name}.weight`), this.get(`${name}.bias`), options);
  }

  norm(map, name) {
    const { norm_groups: groups } = this.about;
    return normSilu(map, this.get(`${name}.weight`), this.get(`${name}.bias`), groups);
  }

  resBlock(map, name) {
    let h = this.conv(this.norm(map, `${name}.norm1`), `${name}.conv1`);
    h = this.conv(this.norm(h, `${name}.norm2`), `${name}.conv2`);
    const kept = this.get(`${name}.shortcut.weight`) ? this.conv(map, `${name}.shortcut`) : map;
    return { ...h, data: add(h.data, kept.data) };
  }

  /** The layers NAME.0, NAME.1, ... : residual blocks, and `between` where the size changes. */
  layers(map, name, between) {
    for (let i = 0; ; i++) {
      const layer = `${name}.${i}`;
      if (this.get(`${layer}.conv1.weight`)) map = this.resBlock(map, layer);
      else if (this.get(`${layer}.conv.weight`)) map = between(map, `${layer}.conv`);
      else return map;
    }
  }

  /** Grey pixels in [-1, 1], row by row -> features (h w, C). */
  features(pixels) {
    const { patch } = this.about;
    let map = unshuffle(pixels, patch);
    map = this.conv(map, "encoder.conv_in");
    map = this.layers(map, "encoder.levels", (m, name) => this.conv(m, name, { stride: 2, pad: 0 }));
    map = this.layers(map, "encoder.middle");
    map = this.conv(this.norm(map, "encoder.norm_out"), "encoder.conv_out");
    return this.conv(map, "pre_quant").data;
  }

  /** f_hat (h w, C) -> pixels in [-1, 1]. */
  decode(fHat) {
    let map = this.conv({ data: fHat, h: this.h, w: this.w }, "post_quant");
    map = this.conv(map, "decoder.conv_in");
    map = this.layers(map, "decoder.middle");
    map = this.layers(map, "decoder.levels", (m, name) => this.conv(doubled(m), name));
    map = this.conv(this.norm(map, "decoder.norm_out"), "decoder.conv_out");
    return shuffle(map, this.about.patch).map((v) => Math.min(1, Math.max(-1, v)));
  }

  /** The codes of a token map: (h_k w_k) tokens -> (h_k w_k, C). */
  embed(tokens) {
    const { channels } = this;
    const out = new Float32Array(tokens.length * channels);
    tokens.forEach((token, i) => {
      out.set(this.codebook.data.subarray(token * channels, (token + 1) * channels), i * channels);
    });
    return out;
  }

  /** What scale k adds to f_hat: phi_k(up(e)). */
  contribution(k, tokens) {
    const codes = this.embed(tokens);
    const up = this.tensors.get(`up.${k}`); // none at the last scale
    const data = up ? overPositions(up, codes) : codes;
    const { phi_strength: s, phi_of_scale: phis } = this.about;
    const mixed = this.conv({ data, h: this.h, w: this.w }, `quantizer.phis.${phis[k]}`).data;
    return mixed.map((v, i) => (1 - s) * data[i] + s * v);
  }

  /** Averages a full-size map (h w, C) down to scale k's grid. */
  down(f, k) {
    const matrix = this.tensors.get(`down.${k}`);
    return matrix ? overPositions(matrix, f) : f;
  }

  /** Nearest codes by |z - e|^2 = |e|^2 - 2 <z, e> + |z|^2: (n, C) -> n tokens. */
  nearest(z) {
    const products = linear(z, this.codebook);
    const vocab = this.codeNorms.length;
    return Array.from({ length: z.length / this.channels }, (_, i) => {
      let best = 0;
      let least = Infinity;
      for (let j = 0; j < vocab; j++) {
        const distance = this.codeNorms[j] - 2 * products[i * vocab + j];
        if (distance < least) [best, least] = [j, distance];
      }
      return best;
    });
  }

  /** Algorithm 1: features -> {tokens: K lists, fHats: f_hat after 1, 2, ... K scales}. */
  quantize(f) {
    const tokens = [];
    const fHats = [];
    let residual = f;
    let fHat = new Float32Array(f.length);
    for (let k = 0; k < this.grids.length; k++) {
      tokens.push(this.nearest(this.down(residual, k)));
      const added = this.contribution(k, tokens[k]);
      fHat = add(fHat, added);
      residual = residual.map((v, i) => v - added[i]);
      fHats.push(fHat);
    }
    return { tokens, fHats };
  }

  encode(pixels) {
    return this.quantize(this.features(pixels));
  }
}

function unshuffle(pixels, patch) {
  const side = Math.round(Math.sqrt(pixels.length));
  const small = side / patch;
  const data = new Float32Array(pixels.length);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const at = ((y / patch) | 0) * small + ((x / patch) | 0);
      data[at * patch * patch + (y % patch) * patch + (x % patch)] = pixels[y * side + x];
    }
  }
  return { data, h: small, w: small };
}

function shuffle({ data, h, w }, patch) {
  const side = w * patch;
  const pixels = new Float32Array(data.length);
  for (let y = 0; y < h * patch; y++) {
    for (let x = 0; x < side; x++) {
      const at = ((y / patch) | 0) * w + ((x / patch) | 0);
      pixels[y * side + x] = data[at * patch * patch + (y % patch) * patch + (x % patch)];
    }
  }
  return pixels;
}

function doubled({ data, h, w }) {
  const channels = data.length / (h * w);
  const out = new Float32Array(4 * data.length);
  for (let y = 0; y < 2 * h; y++) {
    for (let x = 0; x < 2 * w; x++) {
      const from = ((y >> 1) * w + (x >> 1)) * channels;
      out.set(data.subarray(from, from + channels), (y * 2 * w + x) * channels);
    }
  }
  return { data: out, h: 2 * h, w: 2 * w };
}
