// The page's words, all from texts.json.

const texts = await (await fetch(new URL("../texts.json", import.meta.url))).json();
let words = texts.en;
const told = new Map();

/** A line that says something, or nothing without a text; it changes with the language. */
export function tell(id, text, values) {
  told.set(id, [text, values]);
  const line = document.getElementById(id);
  line.textContent = text ? say(text, values) : "";
  line.hidden = !text;
}

export function setLanguage(name) {
  words = texts[name];
  for (const [id, line] of told) tell(id, ...line);
  document.documentElement.lang = name;
  for (const button of document.querySelectorAll("[data-language]")) {
    button.ariaPressed = button.dataset.language === name;
  }
}

/** A text with its {names} filled in; a list of texts as it is. */
export function say(name, values = {}) {
  const text = words[name];
  return Array.isArray(text) ? text : text.replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
}

/** Fills every element that names a text. */
export function fill(root, values) {
  for (const element of root.querySelectorAll("[data-text]")) {
    element.textContent = say(element.dataset.text, values);
  }
  for (const element of root.querySelectorAll("[data-label]")) {
    element.ariaLabel = say(element.dataset.label, values);
  }
  root.title = say("title");
}
