// The list of a folder's results: rows with a picture, filtered and sorted.

import { make } from "./dom.js";

const GRADES = ["failed", "check", "ok", ""]; // worst first
const element = (id) => document.getElementById(id);
const rows = new Map(); // a result's id -> its row

/** Listen to the fields above the list; `onChange` is called when another choice was made. */
export function listenToFilter(onChange) {
  element("filter").addEventListener("submit", (event) => event.preventDefault());
  element("filter").addEventListener("input", onChange);
}

/** The results that the fields ask for, in their order; `kept` stays in, whatever it is. */
export function chosen(results, kept) {
  const words = element("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const verdict = element("by-verdict").value, rating = element("by-rating").value;
  const isWanted = (result) =>
    (!verdict || result.verdict === verdict) &&
    (!rating || (result.rating?.rating ?? "unrated") === rating) &&
    words.every((word) => textOf(result).includes(word));
  const found = results.filter((result) => result === kept || isWanted(result));
  return found.toSorted(ORDERS[element("order").value] ?? ORDERS.name); // sorting keeps the order by name
}

const textOf = ({ name, said, rating }) =>
  [name, ...said, rating?.who, rating?.note].filter(Boolean).join("\n").toLowerCase();

/** Compare by a number; what has none comes last. */
const byNumber = (value, sense = 1) => (a, b) => {
  const [x, y] = [value(a), value(b)];
  return x === null || y === null ? (x === null) - (y === null) : sense * (x - y);
};

const ORDERS = {
  name: () => 0, // as the server sends them
  verdict: byNumber(({ verdict }) => GRADES.indexOf(verdict)),
  ml: byNumber(({ ml }) => ml),
  "-ml": byNumber(({ ml }) => ml, -1),
  rating: byNumber(({ rating }) => ["fail", "fix", "pass"].indexOf(rating?.rating)),
};

/** Show `results` in their order; `open` is called with one that is clicked. */
export function showList(results, current, open) {
  const items = results.map((result) => {
    const row = rows.get(result.id) ?? newRow(result);
    fill(row, result, open);
    return row.item;
  });
  element("results").replaceChildren(...items);
  markCurrent(current);
}

/** Name the inputs that have no mask, and why. */
export function showFailed(failed) {
  const [summary, list] = element("failed").children;
  element("failed").hidden = !failed.length;
  summary.textContent = `${failed.length} ${failed.length === 1 ? "input" : "inputs"} failed`;
  const items = failed.map(({ name, error }) => Object.assign(make("li", ""), { textContent: `${name}: ${error}` }));
  list.replaceChildren(...items);
}

/** Mark the row of the result that is open, and bring it into sight within the list. */
export function markCurrent(current) {
  for (const [id, { item }] of rows) item.toggleAttribute("aria-current", id === current?.id);
  const list = element("results"), item = rows.get(current?.id)?.item;
  if (!item?.isConnected) return;
  const [inner, outer] = [item.getBoundingClientRect(), list.getBoundingClientRect()];
  if (inner.top < outer.top) list.scrollTop += inner.top - outer.top;
  if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom;
}

/** Bring a row in line with its result. */
export function fillRow(result) {
  const row = rows.get(result.id);
  if (row) fill(row, result);
}

function newRow({ id }) {
  const row = { item: make("li", "result"), open: make("button", "open"), picture: make("span", "picture") };
  for (const part of ["name", "state", "grade", "size", "rating"]) row[part] = make("span", part);
  row.state.append(row.grade, row.size, row.rating);
  row.open.append(row.picture, row.name, row.state);
  row.open.type = "button";
  const image = Object.assign(make("img", ""), { loading: "lazy", decoding: "async", alt: "" });
  image.src = `api/results/${id}/thumbnail`;
  image.onerror = () => image.remove();
  row.picture.append(image);
  row.item.append(row.open);
  rows.set(id, row);
  return row;
}

function fill(row, result, open) {
  row.name.textContent = row.name.title = result.name;
  row.grade.textContent = result.verdict;
  row.grade.dataset.grade = result.verdict;
  row.size.textContent = result.ml === null ? "" : `${Math.round(result.ml)} mL`;
  row.rating.textContent = result.rating?.rating ?? "";
  row.rating.dataset.rating = result.rating?.rating ?? "";
  row.item.classList.toggle("corrected", result.corrected);
  if (open) row.open.onclick = () => open(result);
}
