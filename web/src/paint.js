// The 28x28 paper: grey levels are painted for taking apart, a mask for in-painting.

const INNER = 28;
const SIDE = 32;
const PAD = (SIDE - INNER) / 2;
const RADIUS = { level: 1.2, mask: 4 }; // a mask of one dab covers a cell of some map

export class Paper {
  constructor(canvas) {
    this.canvas = canvas;
    canvas.width = canvas.height = INNER;
    this.levels = new Uint8ClampedArray(INNER * INNER);
    this.masked = new Uint8Array(INNER * INNER);
    this.cursor = [INNER / 2, INNER / 2]; // of the keyboard
    this.brush = 255;
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.last = this.where(event);
      this.stroke(this.last);
    };
    canvas.onpointermove = (event) => event.buttons && this.stroke(this.where(event));
    canvas.onkeydown = (event) => this.key(event);
    canvas.onfocus = canvas.onblur = () => this.show();
    this.show();
  }

  where({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [((clientX - left) / width) * INNER, ((clientY - top) / height) * INNER];
  }

  /** From the last point to this one. */
  stroke(to) {
    const [x, y] = this.last;
    const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - x, to[1] - y) * 2));
    for (let s = 1; s <= steps; s++) this.dab(x + ((to[0] - x) * s) / steps, y + ((to[1] - y) * s) / steps);
    this.last = to;
    this.show();
  }

  dab(x, y) {
    const mask = this.brush === "mask";
    const reach = (mask ? RADIUS.mask : RADIUS.level) ** 2;
    for (let i = 0; i < INNER * INNER; i++) {
      const [dx, dy] = [(i % INNER) + 0.5 - x, Math.floor(i / INNER) + 0.5 - y];
      if (dx * dx + dy * dy > reach) continue;
      if (mask) this.masked[i] = 1;
      else this.levels[i] = this.brush;
    }
  }

  /** Arrow keys move the cursor, the space bar paints. */
  key(event) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!by && event.key !== " ") return;
    event.preventDefault();
    const inside = (v) => Math.min(INNER - 1, Math.max(0, v));
    if (by) this.cursor = this.cursor.map((v, axis) => inside(v + by[axis]));
    else this.dab(this.cursor[0] + 0.5, this.cursor[1] + 0.5);
    this.show();
  }

  show() {
    const context = this.canvas.getContext("2d");
    const image = new ImageData(INNER, INNER);
    this.levels.forEach((v, i) => {
      const [red, other] = this.masked[i] ? [128 + v / 2, v / 3] : [v, v];
      image.data.set([red, other, other, 255], 4 * i);
    });
    context.putImageData(image, 0, 0);
    if (document.activeElement !== this.canvas || !this.canvas.matches(":focus-visible")) return;
    context.fillStyle = "#ee8294";
    context.fillRect(...this.cursor, 1, 1);
  }

  clear() {
    this.levels.fill(0);
    this.masked.fill(0);
    this.show();
  }

  /** Takes over a 32x32 picture, grey levels 0 to 255, without its border; the mask goes. */
  load(picture) {
    this.masked.fill(0);
    this.levels.forEach((_, i) => (this.levels[i] = picture[inFull(i)]));
    this.show();
  }

  /** The picture as the tokenizer reads it: 32x32, in [-1, 1]. */
  pixels() {
    const full = new Float32Array(SIDE * SIDE).fill(-1);
    this.levels.forEach((v, i) => (full[inFull(i)] = v / 127.5 - 1));
    return full;
  }

  /** 32x32: 1 where the picture is kept, 0 under the mask; null where nothing is masked. */
  keep() {
    if (!this.masked.includes(1)) return null;
    const full = new Uint8Array(SIDE * SIDE).fill(1);
    this.masked.forEach((masked, i) => (full[inFull(i)] = 1 - masked));
    return full;
  }
}

/** Where pixel i of the inner picture lies in the padded one. */
const inFull = (i) => (Math.floor(i / INNER) + PAD) * SIDE + (i % INNER) + PAD;
