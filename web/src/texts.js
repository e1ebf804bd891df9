// The page's words, all from texts.json.

let words = {};
let current = "en";

export const language = () => current;

export function setLanguage(texts, name) {
  words = texts[name];
  current = name;
  document.documentElement.lang = name;
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", button.dataset.language === name);
  }
}

/** A text with its {names} filled in. */
export function say(name, values = {}) {
  return words[name].replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
}

/** Fills every element that names a text. */
export function fill(root, values) {
  for (const element of root.querySelectorAll("[data-text]")) {
    element.textContent = say(element.dataset.text, values);
  }
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label, values));
  }
  root.title = say("title");
}
