// The weights: one binary file and a table of what lies where (scripts/release/export_page.py).

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** What is said when weights cannot be used; the page shows its translation of `code`. */
export class WeightsError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const READERS = {
  float32: (buffer, offset, count) => new Float32Array(buffer, offset, count),
  float16: (buffer, offset, count) => Float32Array.from(new Uint16Array(buffer, offset, count), half),
  bfloat16: (buffer, offset, count) =>
    new Float32Array(Uint32Array.from(new Uint16Array(buffer, offset, count), (b) => b << 16).buffer),
};

/** Model description and bytes -> Map of name -> {data: Float32Array, shape}; checked first. */
export function readWeights(about, buffer) {
  if (buffer.byteLength !== about.bytes || crc32(new Uint8Array(buffer)) !== about.crc32) {
    throw new WeightsError(
      "damaged",
      `model.bin has ${buffer.byteLength} bytes, expected ${about.bytes} with checksum ` +
        `${about.crc32}: the file is damaged or of another build; reload the page or build it again`,
    );
  }
  const tensors = new Map();
  for (const [name, { type, shape, offset }] of Object.entries(about.tensors)) {
    const count = shape.reduce((a, b) => a * b, 1);
    tensors.set(name, { data: READERS[type](buffer, offset, count), shape });
  }
  return tensors;
}
