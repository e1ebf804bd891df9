// Pictures and token maps as elements.

import { say } from "./texts.js";

export function element(tag, kind = "", words = "") {
  return Object.assign(document.createElement(tag), { className: kind, textContent: words });
}

/** Pixels (n of [red, green, blue, alpha]) onto a canvas. */
function paint(canvas, count, pixel, words) {
  const side = Math.round(Math.sqrt(count));
  canvas.width = canvas.height = side;
  const image = new ImageData(side, side);
  for (let i = 0; i < count; i++) image.data.set(pixel(i), 4 * i);
  canvas.getContext("2d").putImageData(image, 0, 0);
  if (words) canvas.setAttribute("aria-label", words);
}

/** Grey levels onto a canvas, one pixel each. */
export function showPicture(canvas, levels, words) {
  paint(canvas, levels.length, (i) => [levels[i], levels[i], levels[i], 255], words);
}

/** What one picture adds to another: lighter in red, darker in blue. */
function showAdded(canvas, levels, before, words) {
  const pixel = (i) => {
    const by = levels[i] - (before?.[i] ?? 0);
    return by > 0 ? [214, 60, 84, by] : [60, 120, 214, -by];
  };
  paint(canvas, levels.length, pixel, words);
}

export function thumbnail(levels, onclick) {
  const button = element("button", "thumb");
  const canvas = element("canvas");
  Object.assign(button, { type: "button", onclick });
  canvas.setAttribute("aria-hidden", true);
  showPicture(canvas, levels);
  button.append(canvas);
  return button;
}

/** A code by itself: what the decoder makes of it as the 1x1 map (codes.png, 32 a row). */
export function codePicture(code, { colours }) {
  const picture = element("span", "code");
  const [x, y] = [code % 32, Math.floor(code / 32)];
  picture.style.backgroundSize = "3200% auto";
  picture.style.backgroundPosition = `${(100 * x) / 31}% ${(100 * y) / 15}%`;
  picture.style.borderColor = colours[code];
  picture.setAttribute("role", "img");
  picture.title = say("code_number", { code });
  picture.setAttribute("aria-label", picture.title);
  return picture;
}

/** A column of the stage: a token map, the picture so far, and what its scale adds. */
export function stageColumn(k, width, { onchoose, onpeek }) {
  const column = element("figure");
  column.innerHTML = '<div class="map"></div><canvas role="img"></canvas>' +
    '<canvas role="img" class="added"></canvas><figcaption></figcaption>';
  const map = column.querySelector(".map");
  const at = ({ target }) => target.dataset.at && [k, Number(target.dataset.at)];
  map.style.gridTemplateColumns = `repeat(${width}, 1fr)`;
  map.onclick = (event) => at(event) && onchoose(...at(event));
  for (const when of ["pointerover", "focusin"]) {
    map.addEventListener(when, (event) => at(event) && onpeek(...at(event)));
  }
  map.onkeydown = (event) => moveFocus(event, width);
  return column;
}

/** Fills a column of the stage; without a scale it is empty. */
export function showScale(figure, k, [h, w], { scale, before, original, isChosen }, { colours }) {
  figure.classList.toggle("later", !scale);
  const off = original && scale ? say("off", { levels: distance(original, scale.image) }) : "";
  figure.querySelector("figcaption").textContent = say("scale", { k: k + 1, h, w }) + off;
  if (!scale) return;
  showMap(figure.querySelector(".map"), scale, colours, k, w, isChosen);
  const [picture, added] = figure.querySelectorAll("canvas");
  showPicture(picture, scale.image, say("image_alt", { k: k + 1 }));
  showAdded(added, scale.image, before?.image, say("added_alt", { k: k + 1 }));
}

/** The mean difference of two pictures, in grey levels. */
const distance = (a, b) => (a.reduce((sum, v, i) => sum + Math.abs(v - b[i]), 0) / a.length).toFixed(1);

/** A token map as coloured cells; a cell that was there before keeps the focus. */
function showMap(map, { tokens, kept }, colours, k, width, isChosen) {
  while (map.children.length < tokens.length) {
    const cell = element("button");
    cell.type = "button";
    cell.tabIndex = map.children.length ? -1 : 0; // one stop a map; arrow keys do the rest
    cell.dataset.at = map.children.length;
    map.append(cell);
  }
  tokens.forEach((code, i) => {
    const cell = map.children[i];
    const where = { k: k + 1, row: Math.floor(i / width) + 1, column: (i % width) + 1 };
    cell.textContent = code;
    cell.style.background = colours[code];
    cell.classList.toggle("chosen", isChosen(i));
    cell.classList.toggle("kept", Boolean(kept?.[i]));
    cell.setAttribute("aria-label", say("cell", { ...where, code }));
  });
}

/** Arrow keys move between the cells of a map. */
function moveFocus(event, width) {
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width }[event.key];
  const cell = by && event.currentTarget.children[Number(event.target.dataset.at) + by];
  if (!cell) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  cell.tabIndex = 0;
  cell.focus();
}

/** examples.json with its base64 as bytes. */
export function readExamples({ drawings, pictures }) {
  const all = bytes(pictures.images);
  const size = all.length / pictures.labels.length;
  return {
    drawings: drawings.map((drawing) => ({ ...drawing, images: bytes(drawing.images) })),
    pictures: pictures.labels.map((label, i) => ({
      label,
      image: all.subarray(i * size, (i + 1) * size),
    })),
  };
}

function bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
