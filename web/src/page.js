// The page: what is shown, and what happens on a click. The models run in worker.js.

import { inRange, problem, readControls, status } from "./controls.js";
import { Paper } from "./paint.js";
import { readPicture } from "./pictures.js";
import { ScalingPlot } from "./scaling.js";
import { fill, say, setLanguage, tell } from "./texts.js";
import { showPeek, showToken } from "./token.js";
import { element, readExamples, showPicture, showScale, stageColumn, thumbnail } from "./views.js";

const $ = (id) => document.getElementById(id);
const PACE = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 450;

const state = {
  ready: false,
  job: 0,
  scales: [], // of the picture on show: {tokens, image, chances, kept}
  done: false, // whether the worker has made it whole, and so can look into it
  shown: 0, // how many scales are visible
  fixed: null, // tokens that are forced, by scale; null where they are drawn
  chosen: null, // the token that is looked into: [k, i]
  peek: null, // the token under the pointer: [k, i]
  look: null, // the worker's answer about the chosen token
  options: null, // what the picture was drawn with
  original: null, // grey levels of a picture that was taken apart
  source: null, // [text, values] for the line above the maps
  card: 0,
};

const [about, examples, scaling] = await Promise.all(
  ["model.json", "examples.json", "scaling.json"].map(async (name) => (await fetch(name)).json()),
);
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
worker.onmessage = ({ data }) => handlers[data.kind](data);
worker.onerror = (event) => problem("problem_load", { detail: event.message ?? "worker" });

const handlers = {
  ready({ ms }) {
    state.ready = true;
    for (const id of ["draw", "again", "apart", "inpaint"]) $(id).disabled = false;
    status("ready", { seconds: (ms / 1000).toFixed(1) });
    if (state.chosen) choose(...state.chosen);
  },
  scale({ job, k, ...scale }) {
    if (job !== state.job) return;
    state.scales[k] = scale;
    if (k < state.shown) show();
    else if (state.shown === k && state.waiting) reveal();
  },
  done({ job, ms, what }) {
    if (job !== state.job) return;
    state.done = true;
    status(what === "encode" ? "taken" : "drawn", { ms: Math.round(ms) });
    if (state.chosen) choose(...state.chosen);
  },
  look(answer) {
    if (answer.job !== state.job || answer.i !== state.chosen?.[1] || answer.k !== state.chosen[0]) return;
    state.look = answer;
    showLook();
  },
  problem({ code, detail }) {
    tell("status", null);
    problem(`problem_${code}`, { detail });
  },
};

// Making a picture

const className = (label) => (label < about.num_classes ? say("classes")[label] : say("no_class"));

/** Has the worker make the picture that `state.options` and `state.fixed` describe. */
function make(job, keep = 0) {
  state.job += 1;
  state.scales.length = state.shown = keep;
  Object.assign(state, { waiting: true, done: false, look: null });
  problem(null);
  worker.postMessage({ job: state.job, fixed: state.fixed, ...state.options, ...job });
  show();
  if ($("stage").getBoundingClientRect().top > innerHeight * 0.7) $("stage").scrollIntoView();
}

function draw() {
  const { keep, ...options } = readControls() ?? {};
  if (keep === undefined || !state.ready) return;
  const kept = state.scales.slice(0, keep).map(({ tokens }) => tokens);
  Object.assign(state, { options, fixed: kept, chosen: null, original: null });
  state.source = ["from_draw", () => ({ name: className(options.label), seed: options.seed })];
  make({ kind: "draw" }, kept.length);
}

/** Takes a picture apart, or in-paints it where a mask says so. */
function fromPixels(job, source) {
  const options = readControls();
  if (!options || !state.ready) return;
  Object.assign(state, { options, fixed: null, chosen: null, source });
  state.original = Uint8ClampedArray.from(job.pixels, (v) => Math.round(v * 127.5 + 127.5));
  make(job);
}

function takeApart(pixels, label, source) {
  $("label").value = label;
  $("keep").value = 0;
  paper.load(pixels.map((v) => Math.round(v * 127.5 + 127.5)));
  fromPixels({ kind: "encode", pixels }, source);
}

function inpaint() {
  const keep = paper.keep();
  if (!keep) return problem("problem_mask");
  const name = Number($("label").value);
  fromPixels({ kind: "inpaint", pixels: paper.pixels(), keep },
    ["from_mask", () => ({ name: className(name), seed: state.options.seed })]);
}

/** Puts a code at a token: coarser maps stay, and all finer ones are drawn again. */
function repaint(code) {
  const [k, i] = state.chosen;
  state.fixed = state.scales.slice(0, k + 1).map(({ tokens }) => [...tokens]);
  state.fixed[k][i] = code;
  make({ kind: "draw" }, k);
}

/** A cell was chosen. Of an example nothing is known yet: the model makes it anew. */
function choose(k, i) {
  state.chosen = [k, i];
  state.look = null;
  if (state.done) worker.postMessage({ kind: "look", job: state.job, k, i });
  else if (state.ready && state.shown === about.grids.length && state.scales.length === state.shown) {
    state.fixed = state.scales.map(({ tokens }) => tokens);
    make({ kind: "draw" }, state.scales.length);
  }
  show();
}

/** Shows one more scale, and goes on by itself until all are there. */
function reveal() {
  clearTimeout(state.timer);
  if (state.shown >= state.scales.length) return;
  state.shown += 1;
  show();
  if (state.waiting) state.timer = setTimeout(reveal, PACE);
}

function step(play) {
  clearTimeout(state.timer);
  state.waiting = play;
  if (play || state.shown >= about.grids.length) state.shown = 0;
  reveal();
}

function showExample({ label, seed, tokens, images }) {
  const size = images.length / tokens.length;
  const image = (k) => images.subarray(k * size, (k + 1) * size);
  state.job += 1;
  clearTimeout(state.timer);
  state.scales = tokens.map((map, k) => ({ tokens: map, image: image(k) }));
  Object.assign(state, { shown: tokens.length, waiting: false, done: false, original: null });
  Object.assign(state, { fixed: null, chosen: null, look: null });
  state.options = { label, seed, ...examples.settings };
  state.source = ["from_draw", () => ({ name: className(label), seed })];
  $("label").value = label;
  $("seed").value = seed;
  show();
}

// What is on show

function show() {
  const [text, values] = state.source;
  $("source").textContent = say(text, values());
  const { original, scales, chosen } = state;
  about.grids.forEach((grid, k) => {
    const scale = k < state.shown ? scales[k] : null;
    const isChosen = (i) => chosen?.[0] === k && chosen[1] === i;
    showScale(column(k), k, grid, { scale, before: scales[k - 1], original, isChosen }, about);
  });
  column(-1).hidden = !original;
  if (original) {
    showPicture(column(-1).querySelector("canvas"), original, say("original"));
    column(-1).querySelector("figcaption").textContent = say("original");
    column(-1).querySelector(".map").textContent = say("original_note");
  }
  peek();
  showLook();
}

const column = (k) => $("scales").children[k + 1]; // the original comes first

function peek(...at) {
  if (at.length) state.peek = at;
  const [k] = state.peek ?? [];
  if (state.peek && k < state.shown && state.scales[k]) {
    showPeek(state.peek, state.scales[k], about.grids[k], { ...about, ...examples });
  } else $("peek").replaceChildren(element("p", "note", say("peek_none")));
}

function showLook() {
  const scale = state.look && state.look.k < state.shown && state.scales[state.look.k];
  $("token").hidden = !scale;
  if (scale) showToken(state.look, scale, about, repaint);
}

function showCard(by = 0) {
  const cards = say("cards");
  state.card = (state.card + by + cards.length) % cards.length;
  $("card-title").textContent = cards[state.card].title;
  $("card-text").textContent = cards[state.card].text;
  $("card-number").textContent = `${state.card + 1} / ${cards.length}`;
}

/** Everything that has words, in the language that is set. */
function translate(name) {
  setLanguage(name);
  const { value } = $("label");
  const labels = Array.from({ length: about.num_classes + 1 }, (_, label) => label);
  $("label").replaceChildren(...labels.map((label) => new Option(className(label), label)));
  $("label").value = value || 0;
  const last = about.vocab_size - 1;
  $("code").max = last;
  $("keep").max = about.grids.length - 1;
  fill(document, { last });
  for (const [id, list, text] of thumbnails) {
    list.forEach(({ label, seed }, i) => {
      const words = say(text, { name: className(label), seed, number: i + 1 });
      Object.assign($(id).children[i], { title: words, ariaLabel: words });
    });
  }
  showCard();
  show();
  plot.show();
}

// The page's own parts, and what they do

const { drawings, pictures } = readExamples(examples);
const thumbnails = [["examples", drawings, "example_alt"], ["pictures", pictures, "picture_alt"]];
const paper = new Paper($("paper"));
const plot = new ScalingPlot(scaling);
for (const drawing of drawings) {
  const last = drawing.images.slice(-drawing.images.length / drawing.tokens.length);
  $("examples").append(thumbnail(last, () => showExample(drawing)));
}
for (const { label, image } of pictures) {
  const source = ["from_picture", () => ({ name: className(label) })];
  const pixels = Float32Array.from(image, (v) => v / 127.5 - 1);
  $("pictures").append(thumbnail(image, () => takeApart(pixels, label, source)));
}
$("scales").append(stageColumn(-1, 1, {}), ...about.grids.map(([, w], k) =>
  stageColumn(k, w, { onchoose: choose, onpeek: peek })));
column(-1).classList.add("original");
column(-1).querySelector(".added").remove();

async function takeFile(file) {
  if (!file) return;
  const pixels = await readPicture(file).catch(() => null);
  if (pixels) takeApart(pixels, about.num_classes, ["from_file", () => ({})]);
  else problem("problem_file", { name: file.name });
}

$("controls").onsubmit = (event) => {
  event.preventDefault();
  draw();
};
$("controls").noValidate = $("any-code").noValidate = true; // we say it in the page's language
$("again").onclick = () => {
  $("seed").value = (Number($("seed").value) + 1) % 2 ** 32;
  draw();
};
$("step").onclick = () => step(false);
$("play").onclick = () => step(true);
$("card-previous").onclick = () => showCard(-1);
$("card-next").onclick = () => showCard(1);
$("any-code").onsubmit = (event) => {
  event.preventDefault();
  if (inRange($("code"))) repaint(Number($("code").value));
};
for (const button of $("brushes").children) {
  button.onclick = () => {
    paper.brush = button.dataset.brush === "mask" ? "mask" : Number(button.dataset.brush);
    for (const other of $("brushes").children) other.ariaPressed = other === button;
  };
}
$("brushes").firstElementChild.click();
$("clear").onclick = () => paper.clear();
$("copy").onclick = () => state.scales.length && paper.load(state.scales.at(-1).image);
$("apart").onclick = () => takeApart(paper.pixels(), $("label").value, ["from_paper", () => ({})]);
$("inpaint").onclick = inpaint;
$("file").onchange = ({ target }) => takeFile(target.files[0]);
document.ondragover = (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
};
document.ondragleave = () => $("drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  takeFile(event.dataTransfer.files[0]);
};
for (const button of document.querySelectorAll("[data-language]")) {
  button.onclick = () => translate(button.dataset.language);
}

for (const sheet of ["codes.png", "samples.png"]) new Image().src = sheet; // before they are needed
status("loading", { size: (about.bytes / 1e6).toFixed(1) });
state.source = ["from_draw", () => ({ name: "", seed: 0 })];
translate(navigator.language.startsWith("zh") ? "zh" : "en");
showExample(drawings[0]);
