// Pictures and token maps as elements.

import { say } from "./texts.js";

/** Grey levels onto a canvas, one pixel each. */
export function showPicture(canvas, levels, words) {
  const side = Math.round(Math.sqrt(levels.length));
  canvas.width = canvas.height = side;
  const pixels = new ImageData(side, side);
  levels.forEach((v, i) => pixels.data.set([v, v, v, 255], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  if (words) canvas.setAttribute("aria-label", words);
}

export function thumbnail(levels, onclick) {
  const button = document.createElement("button");
  const canvas = document.createElement("canvas");
  Object.assign(button, { type: "button", className: "thumb", onclick });
  canvas.setAttribute("aria-hidden", true);
  showPicture(canvas, levels);
  button.append(canvas);
  return button;
}

/** A list item with a button that offers a code. */
export function codeItem(colour, words, onclick) {
  const [item, button, swatch] = ["li", "button", "span"].map((tag) => document.createElement(tag));
  swatch.className = "swatch";
  swatch.style.background = colour;
  Object.assign(button, { type: "button", onclick });
  button.append(swatch, words);
  item.append(button);
  return item;
}

/** A token map as coloured cells; a cell that was there before keeps the focus. */
export function showMap(map, tokens, colours, k, width, isFixed) {
  while (map.children.length < tokens.length) {
    const cell = document.createElement("button");
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
    cell.classList.toggle("fixed", isFixed(i));
    cell.setAttribute("aria-label", say("cell", { ...where, code }));
  });
}

/** Arrow keys move between the cells of a map. */
export function moveFocus(event, width) {
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
