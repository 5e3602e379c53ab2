// Two dialogs: what each key does, and what a verdict means.

import * as api from "./api.js";

const element = (id) => document.getElementById(id);
const SHOWN = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", "-": "−" };
const UNSHOWN = ["="]; // + without the shift
let words = null; // a promise of what the server says of verdicts

/** What a key does by rows of [in words, {key: action}]; undefined for none. */
export const actionIn = (rows, key) => rows.map(([, keys]) => keys[key]).find(Boolean);

/** Put `rows`, [what they do, {key: action} or the name of a button], at the top of the list of keys. */
export function listKeys(rows) {
  element("keys-text").prepend(...rows.flatMap(([does, keys]) => {
    const names = typeof keys === "string" ? [keys] : Object.keys(keys).filter((key) => !UNSHOWN.includes(key));
    const tag = typeof keys === "string" ? "span" : "kbd";
    return pair(names.map((name) => make(tag, SHOWN[name] ?? nameOf(name))), does);
  }));
}

const nameOf = (key) => (key.length === 1 ? key.toUpperCase() : key.replace(/(?<=[a-z])(?=[A-Z])/, " "));

/** Show the keys at a press of ? where it is not typed into a field, and at the button. */
export function listenForHelp() {
  element("help").addEventListener("click", () => element("keys").showModal());
  document.addEventListener("keydown", ({ key, target, ctrlKey, metaKey }) => {
    if (key !== "?" || ctrlKey || metaKey || target.matches("input:not([type=radio], [type=checkbox], [type=range]), select, textarea")) return;
    if (!document.querySelector("dialog[open]")) element("keys").showModal();
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close()); // beside it
  }
}

/** What the server says of verdicts: {grades, signs}; none of either where it says nothing. */
export function verdictWords() {
  words ??= api.words().catch(() => {
    words = null;
    return { grades: {}, signs: {} };
  });
  return words;
}

/** Show what the grades mean, and the signs of a result with their values and limits. */
export async function explainVerdict(result) {
  const { grades, signs } = await verdictWords();
  element("grades").replaceChildren(...Object.entries(grades).flatMap(([grade, { means, more }]) => {
    const name = make("strong", grade);
    name.dataset.grade = grade;
    return pair([name], `${means} ${more}`);
  }));
  const measured = Object.entries(signs).filter(([sign]) => result?.signs?.[sign] != null);
  element("signs").replaceChildren(...measured.map(([sign, said]) => signRow(said, result.signs[sign])));
  element("signs-said").hidden = !measured.length;
  element("meaning").showModal();
}

function signRow({ name, means, limits }, value) {
  const row = document.createElement("li");
  row.append(make("span", name), make("b", String(+value.toPrecision(3))), make("small", `${means} Limits: ${limits}.`));
  return row;
}

function pair(terms, said) {
  const term = document.createElement("dt");
  term.append(...terms.flatMap((part) => [part, " "]));
  return [term, make("dd", said)];
}

function make(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}
