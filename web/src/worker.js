// The models, away from the page's own thread. Messages in: {kind: "draw" | "encode" | "inpaint",
// job, ...} makes a picture, {kind: "look", job, k, i} looks at a token of it. Out: "ready",
// "scale" (one a scale), "done", "look", "problem". A newer job ends an older one.

import { Uniform, generate, keptCells, probabilities } from "./sampler.js";
import { add } from "./tensors.js";
import { Tokenizer } from "./tokenizer.js";
import { Transformer, softmax } from "./transformer.js";
import { WeightsError, readWeights } from "./weights.js";

const LIKELIEST = 10;
const IN_BAR = 48;
let newest = 0;
let picture = null; // the newest: {options, scales}

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
  postMessage({ kind: "ready", ms: performance.now() - started });
  return both;
}

async function fetched(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer;
}

onmessage = async ({ data }) => {
  if (data.kind !== "look") newest = data.job;
  const both = await models;
  if (both) await (data.kind === "look" ? look : make)(both, data);
};

/** What is used of a scale's drawn tokens, and which cells an in-painting keeps. */
function forcing(tok, { kind, pixels, fixed, keep }) {
  if (kind === "draw") return { force: (k, drawn) => fixed?.[k] ?? drawn };
  const own = tok.encode(pixels).tokens;
  if (kind === "encode") return { force: (k) => own[k] };
  const side = Math.sqrt(keep.length);
  const kept = tok.grids.map(([h, w]) => keptCells(keep, side, h, w));
  return { kept, force: (k, drawn) => drawn.map((token, i) => (kept[k][i] ? own[k][i] : token)) };
}

async function make({ tok, net }, { job, kind, seed, ...options }) {
  const started = performance.now();
  const numbers = new Uniform(seed);
  const { force, kept } = forcing(tok, { kind, ...options });
  const made = { options, scales: [] };
  for (const scale of generate(tok, net, { ...options, force, uniform: () => numbers.next() })) {
    await new Promise((resolve) => setTimeout(resolve)); // lets a newer job in
    if (job !== newest) return;
    const { k, tokens, logits, fHat } = scale;
    const vocab = logits.length / tokens.length;
    const chances = tokens.map((token, i) => softmax(logits.slice(i * vocab, (i + 1) * vocab))[token]);
    made.scales[k] = scale;
    postMessage({ kind: "scale", job, k, tokens, image: grey(tok.decode(fHat)), chances, kept: kept?.[k] });
  }
  picture = made;
  postMessage({ kind: "done", job, what: kind, ms: performance.now() - started });
}

const grey = (pixels) => Uint8ClampedArray.from(pixels, (v) => Math.round(v * 127.5 + 127.5));

/** One token: its distributions, what the filters keep, attention, and the likeliest codes drawn. */
async function look({ tok, net }, { job, k, i }) {
  if (job !== newest || !picture?.scales[k]) return;
  const { scales, options } = picture;
  const { tokens, logits, hidden, before, attention } = scales[k];
  const part = (all) => all.slice((i * all.length) / tokens.length, ((i + 1) * all.length) / tokens.length);
  const mix = softmax(part(logits));
  const [own, other] = hidden.map((h) => softmax(net.logits(part(h))));
  const ranked = Array.from(mix.keys()).sort((a, b) => mix[b] - mix[a]);
  const left = (topK, topP) => {
    const count = probabilities(part(logits), topK, topP).filter((p) => p > 0).length;
    return { count, mass: ranked.slice(0, count).reduce((sum, code) => sum + mix[code], 0) };
  };
  const best = ranked.slice(0, LIKELIEST).map((code) => {
    const image = tok.decode(add(before, tok.contribution(k, tokens.with(i, code))));
    return { code, p: mix[code], own: own[code], other: other[code], image: grey(image) };
  });
  const seen = attention[0].length / (net.heads * tokens.length);
  const heads = attention.map((all) =>
    Array.from({ length: net.heads }, (_, head) =>
      all.slice((head * tokens.length + i) * seen, (head * tokens.length + i + 1) * seen),
    ),
  );
  postMessage({
    kind: "look", job, k, i, best, attention: heads,
    bar: ranked.slice(0, IN_BAR).map((code) => [code, mix[code]]),
    topK: left(options.topK, 0), topP: left(options.topK, options.topP),
    options: { topK: options.topK, topP: options.topP },
    t: (options.cfg * k) / Math.max(1, tok.grids.length - 1),
  });
}
