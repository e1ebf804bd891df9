// Compares the page with what Python drew: node --test web/test/parity.test.js, with PAGE=folder of
// a build with fixtures (tests/course/test_page.py makes them).

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { Uniform, generate, keptCells } from "../src/sampler.js";
import { Tokenizer } from "../src/tokenizer.js";
import { Transformer } from "../src/transformer.js";
import { readWeights } from "../src/weights.js";

const page = process.env.PAGE ?? "out/page";
const json = (name) => JSON.parse(readFileSync(join(page, name), "utf8"));
const about = json("model.json");
const file = readFileSync(join(page, "model.bin"));
const bytes = () => file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
const tensors = readWeights(about, bytes());
const tok = new Tokenizer(about, tensors);
const net = new Transformer(about, tensors);
const { draws, pictures, painted } = json("fixtures.json");
const exact = Object.values(about.tensors).every(({ type }) => type !== "float16");

const levels = (text) => Uint8Array.from(Buffer.from(text, "base64"));
const grey = (pixels) => Uint8Array.from(pixels, (v) => Math.round(v * 127.5 + 127.5));

function drawn(label, options) {
  const scales = [...generate(tok, net, { label, ...options })];
  return { tokens: scales.map((s) => s.tokens), image: grey(tok.decode(scales.at(-1).fHat)) };
}

function agreement(pairs) {
  const [ours, theirs] = [0, 1].map((i) => pairs.flatMap((pair) => pair[i].flat()));
  assert.equal(ours.length, theirs.length);
  return ours.filter((token, i) => token === theirs[i]).length / ours.length;
}

function meanDifference(ours, theirs) {
  assert.equal(ours.length, theirs.length);
  return ours.reduce((sum, v, i) => sum + Math.abs(v - theirs[i]), 0) / ours.length;
}

test("greedy tokens are Python's: all of them in float32, 99 % in float16", (t) => {
  const pairs = draws.map(({ label, cfg, greedy }) => [
    drawn(label, { cfg, topK: 1, uniform: () => 0.5 }).tokens,
    greedy,
  ]);
  const share = agreement(pairs);
  t.diagnostic(`${(100 * share).toFixed(3)} % of greedy tokens agree`);
  assert.ok(exact ? share === 1 : share >= 0.99, `${share}`);
});

test("sampled tokens agree in 99 %, and their pictures within a grey level", (t) => {
  const started = performance.now();
  const results = draws.map(({ label, cfg, top_k: topK, top_p: topP, seed }) => {
    const numbers = new Uniform(seed);
    return drawn(label, { cfg, topK, topP, uniform: () => numbers.next() });
  });
  t.diagnostic(`${((performance.now() - started) / draws.length).toFixed(1)} ms a picture`);
  const share = agreement(results.map(({ tokens }, i) => [tokens, draws[i].sampled]));
  const off = results.map(({ image }, i) => meanDifference(image, levels(draws[i].sampled_image)));
  const mean = off.reduce((a, b) => a + b) / off.length;
  t.diagnostic(`${(100 * share).toFixed(3)} % of tokens agree, ${mean.toFixed(4)} grey levels off`);
  assert.ok(share >= 0.99, `${share}`);
  assert.ok(mean <= 1, `${mean}`);
});

test("in-painted pictures are Python's within a grey level", (t) => {
  const size = levels(pictures.images).length / pictures.tokens.length;
  const off = painted.map(({ label, seed, keep, image }, i) => {
    const pixels = levels(pictures.images).subarray(i * size, (i + 1) * size);
    const own = tok.encode(Float32Array.from(pixels, (v) => v / 127.5 - 1)).tokens;
    const kept = about.grids.map(([h, w]) => keptCells(keep, Math.sqrt(size), h, w));
    const force = (k, tokens) => tokens.map((token, j) => (kept[k][j] ? own[k][j] : token));
    const numbers = new Uniform(seed);
    return meanDifference(drawn(label, { force, uniform: () => numbers.next() }).image, levels(image));
  });
  const mean = off.reduce((a, b) => a + b) / off.length;
  t.diagnostic(`${mean.toFixed(4)} grey levels off, ${Math.max(...off).toFixed(4)} at worst`);
  assert.ok(mean <= 1, `${mean}`);
});

test("a seed gives torch's uniform numbers", () => {
  for (const { seed, uniform } of draws) {
    const numbers = new Uniform(seed);
    assert.deepEqual(uniform.map(() => numbers.next()), uniform);
  }
});

test("encoded pictures have Python's tokens, and reconstructions from 1..K its grey levels", (t) => {
  const size = levels(pictures.images).length / pictures.tokens.length;
  const part = (text, i) => levels(text).subarray(i * size, (i + 1) * size);
  const pairs = [];
  let off = 0;
  pictures.tokens.forEach((tokens, i) => {
    const ours = tok.encode(Float32Array.from(part(pictures.images, i), (v) => v / 127.5 - 1));
    pairs.push([ours.tokens, tokens]);
    ours.fHats.forEach((fHat, k) => {
      off += meanDifference(grey(tok.decode(fHat)), part(pictures.rebuilt[k], i));
    });
  });
  const share = agreement(pairs);
  off /= pictures.tokens.length * pictures.rebuilt.length;
  t.diagnostic(`${(100 * share).toFixed(3)} % of tokens agree, ${off.toFixed(4)} grey levels off`);
  assert.ok(share >= 0.99, `${share}`);
  assert.ok(off <= 1, `${off}`);
});

test("a damaged weight file is refused with a message that says what to do", () => {
  const damaged = bytes();
  new Uint8Array(damaged)[1000] ^= 1;
  for (const bad of [damaged, bytes().slice(0, 1000)]) {
    assert.throws(() => readWeights(about, bad), { code: "damaged", message: /build it again/ });
  }
});
