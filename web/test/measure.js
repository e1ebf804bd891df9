// How fast and how large the built page is: rows of results/page.csv, and with SHOTS=folder the
// screenshots of the README. Needs `npm install` here.
//
//     PAGE=out/page CHROMIUM=/usr/bin/chromium node web/test/measure.js results/page.csv

import { execSync } from "node:child_process";
import { readdirSync, statSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";

import { finished, root, serve } from "./server.js";

const DRAWS = 20;
const OPENINGS = 5;
const served = await serve();
const rows = [];
const number = (v) => (v < 10 ? v.toFixed(1) : v.toFixed(0));

/** A row: the median of values with the least and the most. */
function add(what, values, unit) {
  const ordered = [...values].sort((a, b) => a - b);
  const median = ordered[Math.floor(ordered.length / 2)];
  rows.push([what, number(median), number(ordered[0]), number(ordered.at(-1)), values.length, unit]);
}

/** A fresh browser profile: times since the navigation began. */
async function opened(options = {}) {
  const context = await served.browser.newContext({ locale: "en-GB", reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  await page.goto(served.address, { waitUntil: "commit" });
  const now = () => page.evaluate(() => performance.now());
  await page.waitForFunction(() => document.querySelectorAll("#scales button").length === 30);
  const example = await now();
  await page.waitForSelector("#draw:enabled");
  const ready = await now();
  await draw(page);
  return { page, example, ready, first: await now() };
}

/** Milliseconds that the worker took, as the page says. */
async function draw(page) {
  await page.evaluate(() => (document.querySelector("#status").textContent = ""));
  await page.click("#again");
  await finished(page, "Drawn");
  return Number((await page.textContent("#status")).match(/\d+/)[0]);
}

const openings = [];
for (let i = 0; i < OPENINGS; i++) {
  openings.push(await opened());
  if (i < OPENINGS - 1) await openings[i].page.context().close();
}
add("an example shows", openings.map((one) => one.example), "ms");
add("the model is ready", openings.map((one) => one.ready), "ms");
add("first picture drawn", openings.map((one) => one.first), "ms");
const { page } = openings.at(-1);
const draws = [];
for (let i = 0; i < DRAWS; i++) draws.push(await draw(page));
add("a picture, decoded after each scale", draws, "ms");

if (process.env.SHOTS) {
  const shot = (one, name, options) => one.screenshot({ path: join(process.env.SHOTS, name), ...options });
  const look = async (one) => {
    await one.locator("#examples button").nth(2).click();
    await one.locator("#scales figure").nth(3).locator("button").nth(4).click();
    await one.waitForSelector("#token:not([hidden])");
  };
  await page.setViewportSize({ width: 1080, height: 1000 });
  await look(page);
  await page.evaluate(() => scrollTo(0, 0));
  const [top, end] = await Promise.all(["#stage", "#token"].map((id) => page.locator(id).boundingBox()));
  const clip = { x: 0, y: top.y, width: 1080, height: end.y + end.height - top.y };
  await shot(page, "page.png", { clip, fullPage: true });
  const phone = (await opened({ viewport: { width: 390, height: 844 } })).page;
  await look(phone);
  await phone.evaluate(() => document.querySelector("#stage").scrollIntoView());
  await shot(phone, "page_phone.png");
}

const size = (path) => statSync(path).isDirectory()
  ? readdirSync(path).reduce((sum, name) => sum + size(join(path, name)), 0) : statSync(path).size;
const files = readdirSync(root).filter((name) => name !== "fixtures.json");
for (const name of files) add(`size of ${name}`, [size(join(root, name)) / 1000], "kB");
add("size of the page", [files.reduce((sum, name) => sum + size(join(root, name)), 0) / 1000], "kB");

const provenance = [
  `Chromium ${served.browser.version()}`, `"${cpus()[0].model}, ${cpus().length} cores"`,
  new Date().toISOString().slice(0, 10), execSync("git rev-parse --short=12 HEAD").toString().trim(),
];
const table = [
  "what,median,least,most,n,unit,browser,hardware,date,commit",
  ...rows.map((row) => [`"${row[0]}"`, ...row.slice(1), ...provenance].join(",")),
];
writeFileSync(process.argv[2] ?? "/dev/stdout", `${table.join("\n")}\n`);
await served.close();
