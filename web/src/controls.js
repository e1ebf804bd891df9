// What the controls say, and what is said about them.

import { tell } from "./texts.js";

const $ = (id) => document.getElementById(id);
const FIELDS = { cfg: "cfg", topK: "top-k", topP: "top-p", seed: "seed", keep: "keep" };

export const status = (text, values) => tell("status", text, values);
export const problem = (text, values) => tell("problem", text, values);

/** The controls' values, or null after a message about the first that is out of range. */
export function readControls() {
  const options = { label: Number($("label").value) };
  for (const [name, id] of Object.entries(FIELDS)) {
    const field = $(id);
    if (!inRange(field)) return null;
    options[name] = Number(field.value);
  }
  return options;
}

/** Whether a number is there and in range; if not, the page says so. */
export function inRange(field) {
  const { min, max, value } = field;
  if (value !== "" && field.checkValidity()) return true;
  const name = field.labels[0].textContent.trim();
  problem("problem_number", { name, value, least: min, most: max || "∞" });
  field.focus();
  return false;
}
