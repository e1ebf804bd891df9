// The built page in a real Chromium: PAGE=out/page CHROMIUM=/usr/bin/chromium node --test
// web/test/browser.test.js. SHOTS=folder saves screenshots.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";

import { finished, root, serve } from "./server.js";

let damage = false;
let served;

before(async () => {
  served = await serve((path, bytes) => damage && path === "/model.bin" && (bytes[1000] ^= 1));
});
after(() => served?.close());

/** A fresh page, its errors, and the addresses of other hosts that it asked for. */
async function open(options = {}) {
  const { browser, address } = served;
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
const tokens = (page) => page.$$eval("#scales figure:not(.original) .map", (maps) =>
  maps.map((map) => [...map.children].map((cell) => Number(cell.textContent))));
const cell = (page, k, i) => page.locator("#scales figure").nth(k + 1).locator(".map button").nth(i);
const text = (page, id) => page.textContent(`#${id}`);
const shot = async (page, name, options = { fullPage: true }) => process.env.SHOTS
  && page.screenshot({ path: join(process.env.SHOTS, `${name}.png`), ...options });

/** Another thing of the page has to be there before the old status may be read as the new one. */
async function made(page, words, act) {
  await page.evaluate(() => (document.querySelector("#status").textContent = ""));
  await act();
  await finished(page, words);
}

async function choose(page, k, i) {
  await cell(page, k, i).click();
  await page.waitForSelector("#likeliest li:nth-child(10)");
}

test("an example shows at once; drawing gives what Python drew, step by step", async (t) => {
  const { page, errors } = await open();
  await page.waitForSelector(".map button");
  await ready(page);
  t.diagnostic(await text(page, "status"));
  const { draws } = JSON.parse(readFileSync(join(root, "fixtures.json"), "utf8"));
  const { label, seed, cfg, top_k: topK, top_p: topP, sampled } = draws[1];
  await page.selectOption("#label", String(label));
  for (const [id, value] of [["cfg", cfg], ["top-k", topK], ["top-p", topP], ["seed", seed]]) {
    await page.fill(`#${id}`, String(value));
  }
  await made(page, "Drawn", () => page.click("#draw"));
  t.diagnostic(await text(page, "status"));
  assert.deepEqual(await tokens(page), sampled);
  const hidden = () => page.$$eval(".later", (list) => list.length);
  await page.click("#step");
  assert.equal(await hidden(), sampled.length - 1);
  await page.click("#step");
  assert.equal(await hidden(), sampled.length - 2);
  await page.click("#play");
  await finished(page, "Drawn");
  assert.deepEqual(errors, []);
});

test("loaded once, the page needs no network", async () => {
  const { page, errors } = await open();
  await ready(page);
  await page.context().setOffline(true);
  await made(page, "Drawn", () => page.click("#again"));
  await made(page, "Taken", () => page.locator("#pictures button").nth(2).click());
  await choose(page, 2, 4);
  await page.locator("#plot").focus();
  assert.deepEqual(errors, []);
});

test("a token that is changed keeps coarser maps and redraws finer ones", async () => {
  const { page, errors } = await open();
  await ready(page);
  await made(page, "Drawn", () => page.click("#draw"));
  const was = await tokens(page);
  await choose(page, 1, 2);
  const other = String((was[1][2] + 1) % 512);
  await page.fill("#code", other);
  await made(page, "Drawn", () => page.click("#put"));
  const now = await tokens(page);
  assert.deepEqual(now[0], was[0]);
  assert.deepEqual(now[1], was[1].with(2, Number(other)));
  assert.notDeepEqual(now.slice(2), was.slice(2));
  const likeliest = page.locator("#likeliest button").first();
  const code = Number(await likeliest.locator("span").first().textContent());
  await made(page, "Drawn", () => likeliest.click());
  assert.equal((await tokens(page))[1][2], code);
  await page.fill("#code", "512");
  await page.click("#put");
  assert.match(await text(page, "problem"), /512 is outside 0 to 511/);
  await page.fill("#keep", "2");
  await page.selectOption("#label", "9");
  const kept = await tokens(page);
  await made(page, "Drawn", () => page.click("#draw"));
  const mixed = await tokens(page);
  assert.match(await text(page, "source"), /^Ankle/);
  assert.deepEqual(mixed.slice(0, 2), kept.slice(0, 2));
  assert.notDeepEqual(mixed.slice(2), kept.slice(2));
  assert.deepEqual(errors, []);
});

test("a chosen token shows its probabilities, filters, guidance and attention", async () => {
  const { page, errors } = await open();
  await ready(page);
  await choose(page, 2, 4); // of an example: the model makes it anew
  assert.match(await text(page, "bar-text"), /top-p then leaves \d+, which hold 9[6-9]/);
  assert.match(await text(page, "guidance-text"), /t = 1.00/);
  assert.equal(await page.locator("#mix .bars").count(), 6);
  const shares = await page.getAttribute("#attention", "aria-label");
  const sum = shares.match(/[\d.]+(?= %)/g).reduce((a, b) => a + Number(b), 0);
  assert.ok(Math.abs(sum - 100) < 0.2, shares);
  await page.selectOption("#head", "0");
  assert.notEqual(await page.getAttribute("#attention", "aria-label"), shares);
  await cell(page, 3, 6).hover();
  assert.match(await text(page, "peek"), /Scale 4, row 2, column 3: code \d+.*The model gives it/);
  assert.equal(await page.locator("#peek .codes .code").count(), 6);
  await shot(page, "desktop");
  assert.deepEqual(errors, []);
});

test("pictures are taken apart: embedded, painted, a 50-megapixel photo; a text file is not", async () => {
  const { page, errors } = await open();
  await ready(page);
  await made(page, "Taken", () => page.locator("#pictures button").first().click());
  const captions = await page.$$eval("figcaption", (all) => all.map((one) => one.textContent));
  assert.equal(captions.filter((words) => /grey levels off/.test(words)).length, 4);
  await shot(page, "apart");
  await page.click("#clear");
  await page.locator("#paper").scrollIntoViewIfNeeded();
  const { x, y } = await page.locator("#paper").boundingBox();
  await page.mouse.move(x + 60, y + 60);
  await page.mouse.down();
  await page.mouse.move(x + 140, y + 120);
  await page.mouse.up();
  await made(page, "Taken", () => page.click("#apart"));
  assert.equal(await text(page, "source"), "What you painted");
  const large = await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(10_000, 5_000);
    canvas.getContext("2d").fillRect(0, 0, 1, 1);
    const blob = await canvas.convertToBlob({ type: "image/jpeg" });
    return [...new Uint8Array(await blob.arrayBuffer())];
  });
  await made(page, "Taken", () => page.setInputFiles("#file",
    { name: "large.jpg", mimeType: "image/jpeg", buffer: Buffer.from(large) }));
  assert.equal(await text(page, "source"), "Your picture");
  await page.setInputFiles("#file", { name: "a.txt", mimeType: "text/plain", buffer: Buffer.from("a") });
  await page.waitForSelector("#problem:not([hidden])");
  assert.match(await text(page, "problem"), /^a\.txt cannot be read/);
  assert.deepEqual(errors, []);
});

test("a mask is in-painted: kept cells stay, and without a mask the page says so", async () => {
  const { page, errors } = await open();
  await ready(page);
  await made(page, "Taken", () => page.locator("#pictures button").nth(3).click());
  const was = await tokens(page);
  await page.click("#inpaint");
  assert.match(await text(page, "problem"), /^Nothing is masked/);
  await page.click('[data-brush="mask"]');
  await page.selectOption("#label", "3");
  await page.fill("#seed", "4");
  const paper = page.locator("#paper");
  await paper.focus();
  for (let i = 0; i < 5; i++) for (const key of ["ArrowUp", "ArrowUp", "Space"]) await paper.press(key);
  await made(page, "Drawn", () => page.click("#inpaint"));
  const now = await tokens(page);
  assert.ok(await page.isHidden("#problem"));
  const kept = await page.$$eval("#scales figure:not(.original) .map", (maps) =>
    maps.map((map) => [...map.children].map((one) => one.classList.contains("kept"))));
  assert.ok(kept[0][0] && kept[3].includes(true) && kept[3].includes(false));
  now.forEach((map, k) => map.forEach((token, i) => kept[k][i] && assert.equal(token, was[k][i])));
  assert.notDeepEqual(now, was);
  await shot(page, "inpaint");
  assert.deepEqual(errors, []);
});

test("a damaged weight file gives one message, in the language that is set", async () => {
  damage = true;
  const { page, errors } = await open({ locale: "zh-CN" });
  await page.waitForSelector("#problem:not([hidden])");
  damage = false;
  assert.match(await text(page, "problem"), /权重文件已损坏/);
  await page.click('[data-language="en"]');
  assert.match(await text(page, "problem"), /^The weight file is damaged/);
  assert.equal(await text(page, "status"), "");
  assert.deepEqual(errors, []);
});

test("opened as a file, the page says that it needs a server", async () => {
  const page = await served.browser.newPage();
  await page.goto(pathToFileURL(resolve(root, "index.html")).href);
  assert.match(await page.innerText("#from-file"), /python -m http\.server/);
});

test("a phone shows everything within its width, in Chinese too", async () => {
  const phone = { viewport: { width: 390, height: 844 }, locale: "zh-CN", hasTouch: true };
  const { page, errors } = await open(phone);
  await ready(page);
  await made(page, "绘制", () => page.tap("#draw"));
  await cell(page, 1, 0).tap();
  await page.waitForSelector("#token:not([hidden])");
  for (const language of ["zh", "en"]) {
    await page.click(`[data-language="${language}"]`);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 390, `${width} pixels wide`);
    await shot(page, `phone_${language}`);
  }
  assert.deepEqual(errors, []);
});

test("the scaling plot says its law, warns beyond it and shows a point's pictures", async () => {
  const { page, errors } = await open();
  await ready(page);
  for (const over of ["n", "c"]) {
    await page.selectOption("#over", over);
    await page.fill("#slide", "0.2");
    assert.match(await text(page, "law"), /95 % interval [56]\.\d+ to 6\.\d+\)\. Exponent -0\.01/);
    assert.doesNotMatch(await text(page, "law"), /extrapolation/);
    await page.fill("#slide", "1");
    assert.match(await text(page, "law"), /extrapolation/);
  }
  await page.locator("#plot circle").first().hover({ force: true }); // the other seed lies on it
  assert.match(await text(page, "point"), /^Depth 1, /);
  await page.locator("#plot").press("ArrowLeft");
  assert.match(await text(page, "point"), /^Depth 7, /);
  assert.equal(await page.locator("#samples span").count(), 20);
  assert.deepEqual(errors, []);
});

test("the keyboard is enough, and every picture and control has a name", async () => {
  const { page, errors } = await open();
  await ready(page);
  await page.focus("#card-next");
  await page.keyboard.press("Enter");
  assert.equal(await text(page, "card-number"), "2 / 8");
  await page.focus("#seed");
  await made(page, "Drawn", () => page.keyboard.press("Enter"));
  await cell(page, 3, 0).focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#token:not([hidden])");
  assert.match(await text(page, "token-text"), /^Scale 4, row 2, column 1/);
  const nameless = await page.$$eval("canvas, button, input, select, [role=img]", (all) =>
    all.filter((one) => one.offsetParent && !one.ariaLabel && !one.ariaHidden && !one.labels?.length
      && !one.textContent.trim()).map((one) => one.outerHTML));
  assert.deepEqual(nameless, []);
  assert.deepEqual(errors, []);
});
