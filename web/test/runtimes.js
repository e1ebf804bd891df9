// Plain JavaScript against onnxruntime-web (WASM, one thread): why the worker is what it is. Draws
// the same pictures with both, in turn, under Node; rows of results/page_runtimes.csv.
//
//     python scripts/evidence/page_onnx.py --out /tmp/onnx
//     cd web && npm install --no-save onnxruntime-web
//     PAGE=../out/page ONNX=/tmp/onnx node test/runtimes.js ../results/page_runtimes.csv

import { readFileSync, statSync, writeFileSync } from "node:fs";
import { execSync } from "node:child_process";
import { cpus } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const page = process.env.PAGE ?? "../out/page";
const graphs = process.env.ONNX ?? "/tmp/onnx";
const [WARM, PICTURES, CFG] = [5, 20, 1.5];
const rows = [];

let started = performance.now();
const { Uniform, draw, generate, probabilities } = await import("../src/sampler.js");
const { add } = await import("../src/tensors.js");
const { Tokenizer } = await import("../src/tokenizer.js");
const { Transformer } = await import("../src/transformer.js");
const { readWeights } = await import("../src/weights.js");
const about = JSON.parse(readFileSync(join(page, "model.json")));
const tensors = readWeights(about, Uint8Array.from(readFileSync(join(page, "model.bin"))).buffer);
const [tok, net] = [new Tokenizer(about, tensors), new Transformer(about, tensors)];
const plainStart = performance.now() - started;

started = performance.now();
const ort = await import("onnxruntime-web/wasm");
const wasm = join(fileURLToPath(import.meta.resolve("onnxruntime-web/wasm")), "..", "ort-wasm-simd-threaded.wasm");
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(wasm);
const names = [...about.grids.map((_, k) => `scale${k}`), "decoder"];
const sessions = [];
for (const name of names) sessions.push(await ort.InferenceSession.create(readFileSync(join(graphs, `${name}.onnx`))));
const onnxStart = performance.now() - started;

function plain(label, seed) {
  const numbers = new Uniform(seed);
  const tokens = [];
  for (const scale of generate(tok, net, { label, cfg: CFG, uniform: () => numbers.next() })) {
    tok.decode(scale.fHat);
    tokens.push(scale.tokens);
  }
  return tokens;
}

async function run(session, ...inputs) {
  const answer = await session.run(Object.fromEntries(session.inputNames.map((name, i) => [name, inputs[i]])));
  return session.outputNames.map((name) => answer[name]);
}

const float = (data, shape) => new ort.Tensor("float32", data, shape);

async function onnx(label, seed) {
  const numbers = new Uniform(seed);
  const scales = about.grids.length;
  const labels = new ort.Tensor("int64", BigInt64Array.from([label, about.num_classes], BigInt), [2]);
  let [logits, keys, values, modulations, head] = await run(sessions[0], labels);
  let fHat = new Float32Array(tok.h * tok.w * tok.channels);
  const tokens = [];
  for (let k = 0; k < scales; k++) {
    const vocab = about.vocab_size;
    const drawn = Array.from({ length: logits.data.length / vocab }, (_, i) =>
      draw(probabilities(logits.data.slice(i * vocab, (i + 1) * vocab), 900, 0.96), numbers.next()));
    tokens.push(drawn);
    fHat = add(fHat, tok.contribution(k, drawn));
    const channelsFirst = fHat.map((_, i) => fHat[(i % (tok.h * tok.w)) * tok.channels + Math.floor(i / (tok.h * tok.w))]);
    await run(sessions.at(-1), float(channelsFirst, [1, tok.channels, tok.h, tok.w]));
    if (k + 1 === scales) break;
    const codes = tok.down(fHat, k + 1);
    const t = float(Float32Array.of((CFG * (k + 1)) / (scales - 1)), []);
    const input = float(codes, [1, codes.length / tok.channels, tok.channels]);
    [logits, keys, values] = await run(sessions[k + 1], input, modulations, head, keys, values, t);
  }
  return tokens;
}

async function timed(what) {
  const began = performance.now();
  const tokens = await what();
  return [performance.now() - began, tokens.flat()];
}

const times = { plain: [], onnx: [] };
let agree = 0;
for (let seed = 0; seed < WARM + PICTURES; seed++) {
  const [ours, a] = await timed(() => plain(seed % 10, seed));
  const [theirs, b] = await timed(() => onnx(seed % 10, seed));
  times.plain.push(ours);
  times.onnx.push(theirs);
  agree += a.every((token, i) => token === b[i]);
}

const median = (all) => [...all].sort((a, b) => a - b)[Math.floor(all.length / 2)];
const sizes = (files) => files.reduce((sum, file) => sum + statSync(file).size, 0) / 1e6;
const source = ["sampler", "tensors", "tokenizer", "transformer", "weights"].map((name) =>
  fileURLToPath(new URL(`../src/${name}.js`, import.meta.url)));
const library = fileURLToPath(import.meta.resolve("onnxruntime-web/wasm"));
for (const [what, ours, theirs, unit] of [
  ["runtime", sizes(source), sizes([library, wasm]), "MB"],
  ["weights", about.bytes / 1e6, sizes(names.map((name) => join(graphs, `${name}.onnx`))), "MB"],
  ["start", plainStart, onnxStart, "ms"],
  ["first picture", times.plain[0], times.onnx[0], "ms"],
  ["a picture, median of 20", median(times.plain.slice(WARM)), median(times.onnx.slice(WARM)), "ms"],
  ["pictures with the same tokens, of 25", agree, agree, "pictures"],
]) rows.push([`"${what}"`, ours.toPrecision(3), theirs.toPrecision(3), unit]);

const commit = execSync("git rev-parse --short=12 HEAD").toString().trim();
const provenance = [`Node ${process.version}`, `"${cpus()[0].model}, ${cpus().length} cores"`, new Date().toISOString().slice(0, 10), commit];
const heads = "what,plain_javascript,onnxruntime_web,unit,runtime,hardware,date,commit";
writeFileSync(process.argv[2] ?? "/dev/stdout", `${[heads, ...rows.map((row) => [...row, ...provenance].join(","))].join("\n")}\n`);
