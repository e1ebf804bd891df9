// Serves a built page to a headless Chromium, for the tests and the measurements.

import { readFile } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

import { chromium } from "playwright-core";

export const root = process.env.PAGE ?? "out/page";
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".png": "image/png" };

/** {address, browser, close}; change(path, bytes) may damage what is served. */
export async function serve(change = () => {}) {
  const server = createServer((request, answer) => {
    const asked = normalize(new URL(request.url, "http://localhost").pathname);
    const path = asked === "/" ? "/index.html" : asked;
    readFile(join(root, path), (error, data) => {
      if (error) return answer.writeHead(404).end();
      change(path, data);
      answer.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream" });
      answer.end(data);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const close = async () => {
    await browser.close();
    server.close();
  };
  return { address: `http://127.0.0.1:${server.address().port}/`, browser, close };
}

/** Until a picture is whole, and the status begins with the wanted words. */
export const finished = (page, words) => page.waitForFunction(
  (wanted) => document.querySelector("#status").textContent.startsWith(wanted)
    && !document.querySelector(".later"),
  words,
);
