// One token: what it is (under the pointer), and its inside (once chosen).

import { say } from "./texts.js";
import { codePicture, element, showPicture } from "./views.js";

const $ = (id) => document.getElementById(id);
const percent = (p) => (p < 0.0001 ? "< 0.01" : (100 * p).toFixed(p < 0.0995 ? 2 : 1));
const IN_MIX = 6;

/** The line under the maps: a cell's part of the picture, its code alone, the nearest codes. */
export function showPeek(at, scale, [h, w], about) {
  const [k, i] = at;
  const code = scale.tokens[i];
  const where = { k: k + 1, row: Math.floor(i / w) + 1, column: (i % w) + 1, code };
  const patch = Object.assign(element("canvas"), { width: 56, height: 56 });
  patch.setAttribute("role", "img");
  patch.setAttribute("aria-label", say("patch"));
  const whole = element("canvas");
  showPicture(whole, scale.image);
  const context = patch.getContext("2d");
  context.imageSmoothingEnabled = false;
  const [high, wide] = [whole.height / h, whole.width / w];
  context.drawImage(whole, (i % w) * wide, Math.floor(i / w) * high, wide, high, 0, 0, 56, 56);
  const neighbours = element("div", "codes");
  neighbours.append(...about.neighbours[code].map((near) => codePicture(near, about)));
  const shown = (content, words) => {
    const figure = element("figure");
    figure.append(content, element("figcaption", "", words));
    return figure;
  };
  const chance = scale.chances ? say("peek_chance", { p: percent(scale.chances[i]) }) : "";
  $("peek").replaceChildren(
    shown(patch, say("patch")),
    shown(codePicture(code, about), say("alone", { code })),
    shown(neighbours, say("neighbours")),
    element("p", "", `${say("cell", where)}. ${chance}`),
  );
}

/** Everything about the chosen token; `look` is the worker's answer. */
export function showToken(look, scale, about, repaint) {
  const { k, i, best, t } = look;
  const [, w] = about.grids[k];
  const where = { k: k + 1, row: Math.floor(i / w) + 1, column: (i % w) + 1, code: scale.tokens[i] };
  $("token-text").textContent = say("token", { ...where, p: percent(scale.chances[i]) });
  $("likeliest").replaceChildren(...best.map(({ code, p, image }) => {
    const [item, button, canvas] = ["li", "button", "canvas"].map((tag) => element(tag));
    showPicture(canvas, image);
    canvas.setAttribute("aria-hidden", true);
    Object.assign(button, { type: "button", onclick: () => repaint(code) });
    button.style.borderColor = about.colours[code];
    button.setAttribute("aria-label", say("choose", { code, p: percent(p) }));
    button.append(canvas, element("span", "", String(code)), element("span", "", `${percent(p)} %`));
    item.append(button);
    return item;
  }));
  showBar(look, about, scale.tokens[i]);
  showMix(best.slice(0, IN_MIX), t, k);
  for (const id of ["block", "head"]) $(id).onchange = () => showAttention(look, about);
  showAttention(look, about);
}

/** A bar of length one: the codes from the likeliest down, and where the filters cut. */
function showBar({ bar, topK, topP, options }, about, chosen) {
  const [width, top, high] = [Math.min(480, innerWidth - 32), 26, 34];
  let at = 0;
  let parts = "";
  for (const [code, p] of bar) {
    const stroke = code === chosen ? ' stroke="currentColor" stroke-width="3"' : "";
    const shape = `x="${width * at}" y="${top}" width="${width * p}" height="${high}"`;
    parts += `<rect ${shape} fill="${about.colours[code]}"${stroke}/>`;
    at += p;
  }
  const cut = ({ mass }, words, y, end) => {
    const x = Math.min(width - 1, width * mass);
    return `<path d="M${x} ${top - 6}V${top + high + 6}" stroke="currentColor" stroke-width="2"/>` +
      `<text x="${x}" y="${y}" text-anchor="${end}">${words}</text>`;
  };
  const side = (mass) => (mass > 0.6 ? "end" : "start");
  $("bar").innerHTML = `<svg viewBox="-2 0 ${width + 4} 84">` +
    `<rect x="0" y="${top}" width="${width}" height="${high}" fill="none" stroke="var(--rule)"/>${parts}` +
    cut(topK, `top-k ${options.topK || "–"}`, 14, side(topK.mass)) +
    cut(topP, `top-p ${options.topP || "–"}`, 80, side(topP.mass)) + "</svg>";
  const words = say("bar_text", {
    vocab: about.vocab_size, k: topK.count, kept: topP.count, mass: percent(topP.mass),
  });
  $("bar-text").textContent = words;
  $("bar").setAttribute("aria-label", words);
}

/** Guidance: of the likeliest codes, the probability with the class, without, and their mix. */
function showMix(best, t, k) {
  $("guidance-text").textContent = say("guidance_text", { k: k + 1, t: t.toFixed(2), more: (1 + t).toFixed(2) });
  const kinds = [["with", "own"], ["without", "other"], ["both", "p"]];
  const largest = Math.max(...best.flatMap((entry) => kinds.map(([, name]) => entry[name])));
  const legend = element("p", "legend");
  for (const [kind] of kinds) legend.append(element("i", kind), `${say(kind)}  `);
  legend.style.gridColumn = "1 / -1";
  $("mix").replaceChildren(legend, ...best.flatMap((entry) => {
    const bars = element("div", "bars");
    for (const [kind, name] of kinds) {
      const line = element("i", kind);
      line.style.width = `${(100 * entry[name]) / largest}%`;
      bars.append(line);
    }
    bars.setAttribute("role", "img");
    const values = { a: percent(entry.own), b: percent(entry.other), c: percent(entry.p) };
    bars.title = say("mix_alt", values);
    bars.setAttribute("aria-label", bars.title);
    return [element("span", "", say("code_number", { code: entry.code })), bars];
  }));
}

/** Where the token looks: a share for every cell of this scale and of all before it. */
function showAttention({ attention, k }, about) {
  fillSelect("block", attention.map((_, b) => [b, String(b + 1)]), attention.length - 1);
  const heads = attention[0].map((_, head) => [head, String(head + 1)]);
  fillSelect("head", [["mean", say("mean")], ...heads], "mean");
  const [block, head] = [attention[$("block").value], $("head").value];
  const shares = head === "mean"
    ? block[0].map((_, j) => block.reduce((sum, row) => sum + row[j], 0) / block.length)
    : block[head];
  const largest = Math.max(...shares);
  let at = 0;
  $("attention").replaceChildren(...about.grids.slice(0, k + 1).map(([h, w]) => {
    const map = element("div", "map");
    map.style.gridTemplateColumns = `repeat(${w}, 1fr)`;
    for (let i = 0; i < h * w; i++, at++) {
      const cell = element("span", "", w < 4 ? `${Math.round(100 * shares[at])}` : "");
      const strength = Math.round((100 * shares[at]) / largest);
      cell.style.background = `color-mix(in srgb, var(--accent) ${strength}%, transparent)`;
      cell.title = `${percent(shares[at])} %`;
      map.append(cell);
    }
    return map;
  }));
  let from = 0;
  const totals = about.grids.slice(0, k + 1).map(([h, w], scale) => {
    const sum = shares.slice(from, (from += h * w)).reduce((a, b) => a + b, 0);
    return say("attention_share", { k: scale + 1, p: percent(sum) });
  });
  $("attention").setAttribute("aria-label", totals.join(", "));
}

function fillSelect(id, entries, preset) {
  const value = $(id).value || preset;
  $(id).replaceChildren(...entries.map(([key, words]) => new Option(words, key)));
  $(id).value = value;
}
