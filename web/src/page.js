// The page: what is shown, and what happens on a click. The models run in worker.js.

import { readPicture } from "./pictures.js";
import { fill, language, say, setLanguage } from "./texts.js";
import { codeItem, moveFocus, readExamples, showMap, showPicture, thumbnail } from "./views.js";

const $ = (id) => document.getElementById(id);
const PACE = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 450;

const FIELDS = { cfg: "cfg", topK: "top-k", topP: "top-p", seed: "seed", keep: "keep" };

const state = {
  ready: false,
  job: 0,
  scales: [], // of the picture on show: {tokens, image, chances, best}
  shown: 0, // how many of them are visible
  fixed: null, // tokens that a click has put there, by scale; null where they are drawn
  chosen: null, // the token being repainted: [k, i]
  options: null, // what the picture was drawn with
  source: null, // [text, values] for the line above it
  status: null, // what the two lines above the controls say: [text, values]
  problem: null,
  card: 0,
};

const [texts, about, examples] = await Promise.all(
  ["texts.json", "model.json", "examples.json"].map(async (name) => (await fetch(name)).json()),
);
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
worker.onmessage = ({ data }) => handlers[data.kind](data);
worker.onerror = (event) => problem("problem_load", { detail: event.message ?? "worker" });

const handlers = {
  ready({ ms }) {
    state.ready = true;
    for (const id of ["draw", "again"]) $(id).disabled = false;
    status("ready", { seconds: (ms / 1000).toFixed(1) });
  },
  scale({ job, k, ...scale }) {
    if (job !== state.job) return;
    state.scales[k] = scale;
    if (k < state.shown) show();
    else if (state.shown === k && state.waiting) reveal();
  },
  done({ job, ms, encoded }) {
    if (job === state.job) status(encoded ? "taken" : "drawn", { ms: Math.round(ms) });
  },
  problem({ code, detail }) {
    state.status = null;
    $("status").textContent = "";
    problem(`problem_${code}`, { detail });
  },
};

function status(text, values) {
  state.status = [text, values];
  $("status").textContent = say(text, values);
}

function problem(text, values) {
  state.problem = [text, values];
  $("problem").textContent = say(text, values);
  $("problem").hidden = false;
}

// Drawing

const className = (label) => (label < about.num_classes ? about.classes[label] : say("no_class"));

/** The controls' values, or null after a message about the first that is out of range. */
function readControls() {
  const options = { label: Number($("label").value) };
  for (const [name, id] of Object.entries(FIELDS)) {
    const field = $(id);
    const { min, max } = field;
    if (field.value === "" || !field.checkValidity()) {
      const title = field.labels[0].textContent.trim();
      problem("problem_number", { name: title, value: field.value, least: min, most: max || "∞" });
      field.focus();
      return null;
    }
    options[name] = Number(field.value);
  }
  return options;
}

/** Has the worker make the picture that `state.options` and `state.fixed` describe. */
function make(job, keep = 0) {
  state.job += 1;
  state.scales.length = state.shown = keep;
  state.waiting = true;
  state.problem = null;
  $("problem").hidden = true;
  worker.postMessage({ job: state.job, fixed: state.fixed, ...state.options, ...job });
  show();
}

function draw() {
  const { keep, ...options } = readControls() ?? {};
  if (keep === undefined || !state.ready) return;
  const kept = state.scales.slice(0, keep).map(({ tokens }) => tokens);
  Object.assign(state, { options, fixed: keep ? kept : null, chosen: null });
  state.source = ["from_draw", () => ({ name: className(options.label), seed: options.seed })];
  make({ kind: "draw" }, kept.length);
}

function takeApart(pixels, source) {
  if (!state.ready) return;
  const options = { label: about.num_classes, cfg: 0, topK: 0, topP: 0, seed: 0 };
  Object.assign(state, { options, fixed: null, chosen: null, source });
  make({ kind: "encode", pixels });
}

/** Puts a code at a token: coarser maps stay, and all finer ones are drawn again. */
function repaint(code) {
  const [k, i] = state.chosen;
  state.fixed = state.scales.slice(0, k + 1).map(({ tokens }) => [...tokens]);
  state.fixed[k][i] = code;
  make({ kind: "draw" }, k);
}

/** Shows one more scale, and goes on by itself until all are there. */
function reveal() {
  clearTimeout(state.timer);
  if (state.shown >= state.scales.length) return;
  state.shown += 1;
  show();
  if (state.waiting) state.timer = setTimeout(reveal, PACE);
}

function step() {
  clearTimeout(state.timer);
  state.waiting = false;
  if (state.shown >= about.grids.length) state.shown = 0;
  reveal();
}

function showExample({ label, seed, tokens, images }) {
  const size = images.length / tokens.length;
  const image = (k) => images.subarray(k * size, (k + 1) * size);
  state.job += 1;
  state.scales = tokens.map((map, k) => ({ tokens: map, image: image(k) }));
  Object.assign(state, { shown: tokens.length, waiting: false, fixed: null, chosen: null });
  state.options = { label, seed, cfg: 1.5, topK: 900, topP: 0.96 };
  state.source = ["from_draw", () => ({ name: className(label), seed })];
  $("label").value = label;
  $("seed").value = seed;
  show();
}

// What is on show

function show() {
  const [text, values] = state.source;
  $("source").textContent = say(text, values());
  about.grids.forEach(([h, w], k) => {
    const column = $("scales").children[k];
    const scale = k < state.shown ? state.scales[k] : null;
    column.classList.toggle("later", !scale);
    column.querySelector("figcaption").textContent = say("scale", { k: k + 1, h, w });
    if (!scale) return;
    const fixed = (i) => state.fixed?.[k]?.[i] !== undefined && state.chosen?.join() === `${k},${i}`;
    showMap(column.querySelector(".map"), scale.tokens, about.colours, k, w, fixed);
    showPicture(column.querySelector("canvas"), scale.image, say("image_alt", { k: k + 1 }));
  });
  showRepaint();
}

function showRepaint() {
  const scale = state.chosen && state.chosen[0] < state.shown && state.scales[state.chosen[0]];
  $("repaint").hidden = !scale?.best;
  if (!scale?.best) return;
  const [k, i] = state.chosen;
  const [, w] = about.grids[k];
  const percent = (p) => (100 * p).toFixed(1);
  const where = { k: k + 1, row: Math.floor(i / w) + 1, column: (i % w) + 1 };
  $("token").textContent = say("token", { ...where, code: scale.tokens[i], p: percent(scale.chances[i]) });
  $("likeliest").replaceChildren(
    ...scale.best[i].map(([code, p]) =>
      codeItem(about.colours[code], say("choose", { code, p: percent(p) }), () => repaint(code)),
    ),
  );
}

/** A cell was chosen. Of an example the probabilities are not known yet: the model makes it anew. */
function choose(k, i) {
  state.chosen = [k, i];
  if (!state.scales[k].best && state.ready) {
    state.fixed = state.scales.map(({ tokens }) => tokens);
    make({ kind: "draw" }, state.scales.length);
  } else showRepaint();
}

function showCard(by = 0) {
  const { cards } = texts[language()];
  state.card = (state.card + by + cards.length) % cards.length;
  $("card-title").textContent = cards[state.card].title;
  $("card-text").textContent = cards[state.card].text;
  $("card-number").textContent = `${state.card + 1} / ${cards.length}`;
}

/** Everything that has words, in the language that is set. */
function translate(name) {
  setLanguage(texts, name);
  const { value } = $("label");
  const labels = Array.from({ length: about.num_classes + 1 }, (_, label) => label);
  $("label").replaceChildren(...labels.map((label) => new Option(className(label), label)));
  $("label").value = value || 0;
  const last = about.vocab_size - 1;
  $("code").max = last;
  $("keep").max = about.grids.length - 1;
  fill(document, { last });
  for (const [id, list, text] of thumbnails) {
    list.forEach((entry, i) => $(id).children[i].setAttribute("aria-label", say(text, entry(i))));
  }
  if (state.status) status(...state.status);
  if (state.problem) problem(...state.problem);
  showCard();
  show();
}

// The page's own parts, and what they do

const { drawings, pictures } = readExamples(examples);
const thumbnails = [
  ["examples", drawings.map(({ label, seed }) => () => ({ name: className(label), seed })), "example_alt"],
  ["pictures", pictures.map(({ label }) => (i) => ({ name: className(label), number: i + 1 })), "picture_alt"],
];
for (const drawing of drawings) {
  $("examples").append(thumbnail(drawing.images.slice(-drawing.images.length / drawing.tokens.length),
    () => showExample(drawing)));
}
for (const { label, image } of pictures) {
  const source = ["from_picture", () => ({ name: className(label) })];
  $("pictures").append(
    thumbnail(image, () => takeApart(Float32Array.from(image, (v) => v / 127.5 - 1), source)),
  );
}
for (const [k, [, w]] of about.grids.entries()) {
  const column = document.createElement("figure");
  column.innerHTML = '<div class="map"></div><canvas role="img"></canvas><figcaption></figcaption>';
  const map = column.querySelector(".map");
  map.style.gridTemplateColumns = `repeat(${w}, 1fr)`;
  map.onclick = ({ target }) => target.dataset.at && choose(k, Number(target.dataset.at));
  map.onkeydown = (event) => moveFocus(event, w);
  $("scales").append(column);
}

async function takeFile(file) {
  if (!file) return;
  const pixels = await readPicture(file).catch(() => null);
  if (pixels) takeApart(pixels, ["from_file", () => ({})]);
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
$("step").onclick = step;
$("card-previous").onclick = () => showCard(-1);
$("card-next").onclick = () => showCard(1);
$("any-code").onsubmit = (event) => {
  event.preventDefault();
  const { value, min, max } = $("code");
  if (value !== "" && $("code").checkValidity()) repaint(Number(value));
  else problem("problem_number", { name: $("code").labels[0].textContent.trim(), value, least: min, most: max });
};
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

if (!state.ready) state.status = ["loading", { size: (about.bytes / 1e6).toFixed(1) }];
state.source = ["from_draw", () => ({ name: "", seed: 0 })];
translate(navigator.language.startsWith("zh") ? "zh" : "en");
showExample(drawings[0]);
