// The built page in a real Chromium: PAGE=out/page CHROMIUM=/usr/bin/chromium node --test
// web/test/browser.test.js. SHOTS=folder saves screenshots.

import assert from "node:assert/strict";
import { readFile, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

const root = process.env.PAGE ?? "out/page";
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };
let damage = false;
let browser;
let address;

const server = createServer((request, answer) => {
  const asked = normalize(new URL(request.url, address).pathname);
  const path = asked === "/" ? "/index.html" : asked;
  readFile(join(root, path), (error, data) => {
    if (error) return answer.writeHead(404).end();
    if (damage && path === "/model.bin") data[1000] ^= 1;
    answer.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream" });
    answer.end(data);
  });
});

before(async () => {
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  address = `http://127.0.0.1:${server.address().port}/`;
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
});

after(async () => {
  await browser?.close();
  server.close();
});

/** A fresh page, its errors, and the addresses of other hosts that it asked for. */
async function open(options = {}) {
  const context = await browser.newContext({ locale: "en-GB", reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("request", (request) => {
    if (!request.url().startsWith(address) && !request.url().startsWith("data:")) errors.push(request.url());
  });
  await page.goto(address);
  return { page, errors };
}

const ready = (page) => page.waitForSelector("#draw:enabled");
const finished = (page, text) => page.waitForFunction(
  (wanted) => document.querySelector("#status").textContent.startsWith(wanted)
    && !document.querySelector(".later"),
  text,
);
const tokens = (page) => page.$$eval(".map", (maps) => maps.map((m) => [...m.children].map((c) => Number(c.textContent))));
const shot = async (page, name) => process.env.SHOTS
  && page.screenshot({ path: join(process.env.SHOTS, `${name}.png`), fullPage: true });

test("an example shows at once; drawing gives what Python drew, step by step", async (t) => {
  const { page, errors } = await open();
  await page.waitForSelector(".map button");
  await ready(page);
  t.diagnostic(await page.textContent("#status"));
  const { draws } = JSON.parse(readFileSync(join(root, "fixtures.json"), "utf8"));
  const { label, seed, cfg, top_k: topK, top_p: topP, sampled } = draws[1];
  await page.selectOption("#label", String(label));
  for (const [id, value] of [["cfg", cfg], ["top-k", topK], ["top-p", topP], ["seed", seed]]) {
    await page.fill(`#${id}`, String(value));
  }
  await page.click("#draw");
  await finished(page, "Drawn");
  t.diagnostic(await page.textContent("#status"));
  assert.deepEqual(await tokens(page), sampled);
  await shot(page, "draw");
  await page.click("#step");
  assert.equal(await page.$$eval(".later", (list) => list.length), sampled.length - 1);
  assert.deepEqual(errors, []);
});

test("a token that is changed keeps coarser maps and redraws finer ones", async () => {
  const { page, errors } = await open();
  await ready(page);
  await page.click("#draw");
  await finished(page, "Drawn");
  const was = await tokens(page);
  await page.locator(".map").nth(1).locator("button").nth(2).click();
  await page.waitForSelector("#likeliest li:nth-child(10)");
  await page.fill("#code", String((was[1][2] + 1) % 512));
  await page.click("#put");
  await page.waitForFunction((code) => document.querySelectorAll(".map")[1].children[2].textContent === code,
    String((was[1][2] + 1) % 512));
  await finished(page, "Drawn");
  const now = await tokens(page);
  assert.deepEqual(now[0], was[0]);
  assert.equal(now[1].filter((code, i) => code !== was[1][i]).length, 1);
  assert.notDeepEqual(now.slice(2), was.slice(2));
  await shot(page, "repaint");
  await page.fill("#keep", "2");
  await page.selectOption("#label", "9");
  await page.click("#draw");
  await page.waitForFunction(() => document.querySelector("#source").textContent.startsWith("Ankle"));
  await finished(page, "Drawn");
  const rest = await tokens(page);
  assert.deepEqual(rest.slice(0, 2), now.slice(0, 2));
  assert.notDeepEqual(rest.slice(2), now.slice(2));
  assert.deepEqual(errors, []);
});

test("pictures are taken apart: an embedded one, a large photo; a text file is refused", async () => {
  const { page, errors } = await open();
  await ready(page);
  await page.locator("#pictures button").first().click();
  await finished(page, "Taken");
  await shot(page, "apart");
  const large = await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(10_000, 5_000);
    canvas.getContext("2d").fillRect(0, 0, 1, 1);
    const blob = await canvas.convertToBlob({ type: "image/jpeg" });
    return [...new Uint8Array(await blob.arrayBuffer())];
  });
  await page.setInputFiles("#file", { name: "large.jpg", mimeType: "image/jpeg", buffer: Buffer.from(large) });
  await page.waitForFunction(() => document.querySelector("#source").textContent === "Your picture");
  await finished(page, "Taken");
  await page.setInputFiles("#file", { name: "a.txt", mimeType: "text/plain", buffer: Buffer.from("a") });
  await page.waitForSelector("#problem:not([hidden])");
  assert.match(await page.textContent("#problem"), /^a\.txt cannot be read/);
  assert.deepEqual(errors, []);
});

test("a damaged weight file gives one message, in the language that is set", async () => {
  damage = true;
  const { page, errors } = await open({ locale: "zh-CN", viewport: { width: 390, height: 844 } });
  await page.waitForSelector("#problem:not([hidden])");
  damage = false;
  assert.match(await page.textContent("#problem"), /权重文件已损坏/);
  await page.click('[data-language="en"]');
  assert.match(await page.textContent("#problem"), /^The weight file is damaged/);
  await shot(page, "phone");
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 390, `${width} pixels wide`);
  assert.deepEqual(errors, []);
});

test("the keyboard is enough: cards, a draw, a cell and its neighbour", async () => {
  const { page, errors } = await open();
  await ready(page);
  await page.focus("#card-next");
  await page.keyboard.press("Enter");
  assert.equal(await page.textContent("#card-number"), "2 / 5");
  await page.focus("#seed");
  await page.keyboard.press("Enter");
  await finished(page, "Drawn");
  await page.locator(".map").nth(3).locator("button").first().focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#repaint:not([hidden])");
  assert.match(await page.textContent("#token"), /^Scale 4, row 2, column 1/);
  assert.deepEqual(errors, []);
});
