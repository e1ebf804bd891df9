// The models, away from the page's own thread. Messages in: {job, kind: "draw" | "encode", ...};
// out: "ready", "scale" (one a scale), "done", "problem". A newer job ends an older one.

import { Uniform, generate } from "./sampler.js";
import { Tokenizer } from "./tokenizer.js";
import { Transformer, softmax } from "./transformer.js";
import { WeightsError, readWeights } from "./weights.js";

const LIKELIEST = 10;
let newest = 0;

const models = load().catch((error) => {
  const code = error instanceof WeightsError ? error.code : "load";
  postMessage({ kind: "problem", code, detail: error.message });
});

async function load() {
  const started = performance.now();
  const [about, bytes] = await Promise.all([
    fetched("../model.json").then((answer) => answer.json()),
    fetched("../model.bin").then((answer) => answer.arrayBuffer()),
  ]);
  const tensors = readWeights(about, bytes);
  const both = { tok: new Tokenizer(about, tensors), net: new Transformer(about, tensors) };
  postMessage({ kind: "ready", about: { vocab: about.vocab_size }, ms: performance.now() - started });
  return both;
}

async function fetched(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer;
}

onmessage = async ({ data }) => {
  newest = data.job;
  const both = await models;
  if (both) await run(both, data);
};

async function run({ tok, net }, { job, kind, pixels, fixed, seed, ...options }) {
  const started = performance.now();
  if (kind === "encode") fixed = tok.encode(pixels).tokens;
  const numbers = new Uniform(seed);
  const force = (k, drawn) => fixed?.[k] ?? drawn;
  for (const scale of generate(tok, net, { ...options, force, uniform: () => numbers.next() })) {
    await new Promise((resolve) => setTimeout(resolve)); // lets a newer job in
    if (job !== newest) return;
    const image = Uint8ClampedArray.from(tok.decode(scale.fHat), (v) => Math.round(v * 127.5 + 127.5));
    const { k, tokens, logits } = scale;
    postMessage({ kind: "scale", job, k, tokens, image, ...likeliest(tokens, logits) });
  }
  postMessage({ kind: "done", job, encoded: kind === "encode", ms: performance.now() - started });
}

/** Of every token: its own probability, and the likeliest codes as [code, probability]. */
function likeliest(tokens, logits) {
  const vocab = logits.length / tokens.length;
  const rows = tokens.map((_, i) => softmax(logits.slice(i * vocab, (i + 1) * vocab)));
  const best = rows.map((row) =>
    Array.from(row, (p, code) => [code, p])
      .sort((a, b) => b[1] - a[1])
      .slice(0, LIKELIEST),
  );
  return { chances: rows.map((row, i) => row[tokens[i]]), best };
}
