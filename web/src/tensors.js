// The few operations that both networks need, on Float32Arrays.
//
// A map of n positions with c channels is stored row by row as (n, c): the positions' vectors one after
// another. Sums run in JavaScript's double precision and are rounded to float32 when stored.

/** x (n, in) -> x W^T + b, (n, out); W is (out, in), as in torch.nn.Linear. */
export function linear(x, weight, bias) {
  const outs = weight.shape[0];
  const w = weight.data;
  const ins = w.length / outs;
  const n = x.length / ins;
  const y = new Float32Array(n * outs);
  let row = 0;
  for (; row + 4 <= n; row += 4) fourRows(x, w, bias?.data, y, row, ins, outs);
  for (; row < n; row++) {
    for (let o = 0; o < outs; o++) {
      let sum = bias ? bias.data[o] : 0;
      for (let i = 0; i < ins; i++) sum += w[o * ins + i] * x[row * ins + i];
      y[row * outs + o] = sum;
    }
  }
  return y;
}

// Four rows at once read every weight once instead of four times.
function fourRows(x, w, bias, y, row, ins, outs) {
  const x0 = row * ins;
  const x1 = x0 + ins;
  const x2 = x1 + ins;
  const x3 = x2 + ins;
  for (let o = 0; o < outs; o++) {
    const at = o * ins;
    let a = bias ? bias[o] : 0;
    let b = a;
    let c = a;
    let d = a;
    for (let i = 0; i < ins; i++) {
      const v = w[at + i];
      a += v * x[x0 + i];
      b += v * x[x1 + i];
      c += v * x[x2 + i];
      d += v * x[x3 + i];
    }
    const to = row * outs + o;
    y[to] = a;
    y[to + outs] = b;
    y[to + 2 * outs] = c;
    y[to + 3 * outs] = d;
  }
}

/** A convolution of a map {data, h, w}; W is (out, in, size, size). `pad` goes left and above. */
export function conv(map, weight, bias, { stride = 1, pad = 1 } = {}) {
  const [, channels, size] = weight.shape;
  if (size === 1) return { ...map, data: linear(map.data, weight, bias) };
  const h = map.h / stride;
  const w = map.w / stride;
  const taps = size * size;
  const columns = new Float32Array(h * w * channels * taps);
  for (let oy = 0; oy < h; oy++) {
    for (let ox = 0; ox < w; ox++) {
      const to = (oy * w + ox) * channels * taps;
      for (let tap = 0; tap < taps; tap++) {
        const y = oy * stride + ((tap / size) | 0) - pad;
        const x = ox * stride + (tap % size) - pad;
        if (y < 0 || x < 0 || y >= map.h || x >= map.w) continue; // zeros around the map
        const from = (y * map.w + x) * channels;
        for (let c = 0; c < channels; c++) columns[to + c * taps + tap] = map.data[from + c];
      }
    }
  }
  return { data: linear(columns, weight, bias), h, w };
}

/** Group normalisation, then SiLU. */
export function normSilu(map, weight, bias, groups) {
  const { data } = map;
  const channels = weight.data.length;
  const each = channels / groups;
  const positions = data.length / channels;
  const out = new Float32Array(data.length);
  for (let g = 0; g < groups; g++) {
    let sum = 0;
    let squares = 0;
    for (let p = 0; p < positions; p++) {
      for (let c = g * each; c < (g + 1) * each; c++) sum += data[p * channels + c];
    }
    const mean = sum / (positions * each);
    for (let p = 0; p < positions; p++) {
      for (let c = g * each; c < (g + 1) * each; c++) squares += (data[p * channels + c] - mean) ** 2;
    }
    const scale = 1 / Math.sqrt(squares / (positions * each) + 1e-6);
    for (let p = 0; p < positions; p++) {
      for (let c = g * each; c < (g + 1) * each; c++) {
        const v = (data[p * channels + c] - mean) * scale * weight.data[c] + bias.data[c];
        out[p * channels + c] = v / (1 + Math.exp(-v));
      }
    }
  }
  return { ...map, data: out };
}

/** LN(x) (1 + scale) + shift, row by row; scale and shift (width,) serve all rows. */
export function modulate(x, scale, shift) {
  const width = scale.length;
  const out = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += width) {
    let sum = 0;
    let squares = 0;
    for (let i = 0; i < width; i++) sum += x[at + i];
    const mean = sum / width;
    for (let i = 0; i < width; i++) squares += (x[at + i] - mean) ** 2;
    const norm = 1 / Math.sqrt(squares / width + 1e-6);
    for (let i = 0; i < width; i++) {
      out[at + i] = (x[at + i] - mean) * norm * (1 + scale[i]) + shift[i];
    }
  }
  return out;
}

export function add(x, y) {
  return x.map((value, i) => value + y[i]);
}

/** A matrix {data, shape (to, from)} over the positions of a map (from, c) -> (to, c). */
export function overPositions(matrix, x) {
  const [to, from] = matrix.shape;
  const channels = x.length / from;
  const out = new Float32Array(to * channels);
  for (let t = 0; t < to; t++) {
    for (let c = 0; c < channels; c++) {
      let sum = 0;
      for (let f = 0; f < from; f++) sum += matrix.data[t * from + f] * x[f * channels + c];
      out[t * channels + c] = sum;
    }
  }
  return out;
}
