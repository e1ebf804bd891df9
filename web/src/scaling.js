// The scaling curves: the committed sweep as a plot, and the law fitted to it (results/scaling/).

import { say } from "./texts.js";
import { element } from "./views.js";

const $ = (id) => document.getElementById(id);
const WIDTH = Math.min(640, Math.max(320, innerWidth - 32)); // words stay readable on a phone
const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [360, 48, 12, 12, 40];
const UNIT = { n: 1, c: 1e15 }; // parameters; floating-point operations, shown in PFlops

export class ScalingPlot {
  constructor(data) {
    this.data = data;
    this.point = -1;
    for (const id of ["over", "measure"]) $(id).onchange = () => this.show();
    $("slide").oninput = () => this.showLaw();
    $("plot").onpointermove = (event) => this.nearest(event);
    $("plot").onkeydown = (event) => this.key(event);
  }

  /** Over the size: the ends of all runs. Over compute: every run at all times. */
  points() {
    const { rows } = this.data;
    const last = Math.max(...rows.map((row) => row.images));
    return rows.filter((row) => $("over").value === "c" || row.images === last)
      .map((row) => ({ row, x: row[$("over").value], y: row[$("measure").value] }));
  }

  show() {
    this.law = this.data.laws[$("over").value][$("measure").value];
    const points = this.points();
    const { x, low, high } = this.law.band;
    const ys = [...points.map((point) => point.y), ...low, ...high];
    this.scaleX = axis([Math.min(x[0], ...points.map((point) => point.x)) * 0.6, x.at(-1)], LEFT, WIDTH - RIGHT);
    this.scaleY = axis([Math.min(...ys) * 0.998, Math.max(...ys) * 1.002], HEIGHT - BOTTOM, TOP);
    this.dots = points.map(({ row, x: px, y }) => ({ row, x: this.scaleX(px), y: this.scaleY(y) }));
    const at = (i, values) => `${this.scaleX(x[i])} ${this.scaleY(values[i])}`;
    const edge = (values) => x.map((_, i) => at(i, values));
    const band = [...edge(high), ...edge(low).reverse()].join("L");
    const runs = $("over").value === "c" ? this.runs() : "";
    const dots = this.dots.map((dot) => `<circle cx="${dot.x}" cy="${dot.y}" r="5" fill="${shade(dot.row.depth)}"/>`);
    $("plot").innerHTML = `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}">${this.frame()}` +
      `<path d="M${band}Z" fill="var(--accent)" opacity=".15"/>` +
      `<path d="M${edge(this.law.band.y).join("L")}" fill="none" stroke="var(--accent)" stroke-width="2"/>` +
      `${runs}${this.depths()}<path id="cursor" stroke="currentColor" stroke-dasharray="4 4"/>${dots.join("")}</svg>`;
    $("plot").setAttribute("aria-label", say("plot_alt", { count: points.length }));
    this.point = Math.min(this.point, points.length - 1);
    this.showLaw();
    this.choose(this.point < 0 ? points.length - 1 : this.point);
  }

  /** A line through the points of every run. */
  runs() {
    const lines = Map.groupBy(this.dots, ({ row }) => `${row.depth},${row.seed}`);
    return [...lines.values()].map((dots) => {
      const path = dots.map((dot) => `${dot.x} ${dot.y}`).join("L");
      return `<path d="M${path}" fill="none" stroke="${shade(dots[0].row.depth)}"/>`;
    }).join("");
  }

  /** The depth below the last point of its first run. */
  depths() {
    const last = Math.max(...this.data.rows.map((row) => row.images));
    return this.dots.filter(({ row }) => row.seed === 0 && row.images === last)
      .map(({ row: { depth }, x, y }) => {
        const words = depth === 1 ? "d = 1" : depth;
        return `<text x="${x - 5}" y="${y + 18}" text-anchor="end">${words}</text>`;
      }).join("");
  }

  frame() {
    const over = $("over").value;
    const inside = (ticks, [least, most]) => ticks.filter((v) => v >= least && v <= most);
    const decades = Array.from({ length: 16 }, (_, i) => 10 ** (i + 3));
    const loss = $("measure").value === "loss";
    const ys = loss ? [5.4, 5.6, 5.8, 6, 6.2, 6.4, 6.6] : [0.96, 0.965, 0.97, 0.975, 0.98, 0.985, 0.99];
    const x = inside(decades, this.scaleX.ends).map((v) => {
      const words = over === "n" ? short(v) : String(v / UNIT.c);
      return `<text x="${this.scaleX(v)}" y="${HEIGHT - 22}" text-anchor="middle">${words}</text>` +
        `<path d="M${this.scaleX(v)} ${TOP}V${HEIGHT - BOTTOM}" stroke="var(--rule)"/>`;
    });
    const y = inside(ys, this.scaleY.ends).map((v) =>
      `<text x="${LEFT - 6}" y="${this.scaleY(v) + 4}" text-anchor="end">${v}</text>` +
      `<path d="M${LEFT} ${this.scaleY(v)}H${WIDTH - RIGHT}" stroke="var(--rule)"/>`);
    const middle = `x="${(LEFT + WIDTH) / 2}" y="${HEIGHT - 4}" text-anchor="middle"`;
    const title = `<text ${middle}>${say(`over_${over}`)}</text>`;
    return [...x, ...y, title].join("");
  }

  /** The law at the slider, with its interval. */
  showLaw() {
    const { band, b, b_low: low, b_high: high } = this.law;
    const over = $("over").value;
    const at = Number($("slide").value) * (band.x.length - 1);
    const between = (values) => {
      const i = Math.min(values.length - 2, Math.floor(at));
      return Math.exp(Math.log(values[i]) * (i + 1 - at) + Math.log(values[i + 1]) * (at - i));
    };
    const x = between(band.x);
    const size = over === "n" ? short(x) : `${(x / UNIT.c).toPrecision(2)} PFlops`;
    const digits = $("measure").value === "loss" ? 3 : 4;
    const [y, least, most] = [band.y, band.low, band.high].map((v) => between(v).toFixed(digits));
    const beyond = x > Math.max(...this.points().map((point) => point.x)) ? say("beyond") : "";
    const exponent = [b, low, high].map((v) => v.toFixed(4));
    $("law").textContent = say("law", {
      size, y, least, most, b: exponent[0], low: exponent[1], high: exponent[2], what: say($("measure").value),
    }) + beyond;
    $("slide").setAttribute("aria-valuetext", size);
    document.getElementById("cursor").setAttribute("d", `M${this.scaleX(x)} ${TOP}V${HEIGHT - BOTTOM}`);
  }

  nearest({ clientX, clientY }) {
    const { left, top, width } = $("plot").firstChild.getBoundingClientRect();
    const [x, y] = [clientX - left, clientY - top].map((v) => (v * WIDTH) / width);
    const far = this.dots.map((dot) => Math.hypot(dot.x - x, dot.y - y));
    const least = Math.min(...far);
    if (least < 24) this.choose(far.indexOf(least));
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    this.choose((this.point + by + this.dots.length) % this.dots.length);
  }

  /** A point: its numbers, and what the finished run of its depth draws. */
  choose(point) {
    this.point = point;
    const circles = $("plot").querySelectorAll("circle");
    circles.forEach((circle, i) => circle.setAttribute("r", i === point ? 8 : 5));
    const { depth, n, seed, images, loss, error, c } = this.dots[point].row;
    const values = { depth, n: short(n), seed, images, loss: loss.toFixed(3), error: error.toFixed(4) };
    $("point").textContent = say("point", { ...values, c: (c / UNIT.c).toPrecision(2) });
    const { depths, columns } = this.data.samples;
    const row = depths.indexOf(depth);
    $("samples").replaceChildren(...Array.from({ length: row < 0 ? 0 : columns }, (_, i) => {
      const tile = element("span");
      tile.style.backgroundSize = `${100 * columns}% auto`;
      tile.style.backgroundPosition =
        `${(100 * i) / (columns - 1)}% ${(100 * row) / (depths.length - 1)}%`;
      return tile;
    }));
    $("samples").setAttribute("aria-label", say("samples_alt", { depth }));
  }
}

/** A logarithmic axis: values -> positions, with its two ends. */
function axis(ends, from, to) {
  const [a, b] = ends.map(Math.log);
  return Object.assign((v) => from + ((Math.log(v) - a) / (b - a)) * (to - from), { ends });
}

const shade = (depth) => `hsl(${220 + 18 * depth} 60% 55%)`;
const short = (n) => (n < 1e6 ? `${(n / 1e3).toPrecision(3)} k` : `${(n / 1e6).toPrecision(3)} M`);
