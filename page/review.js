// The page of a folder of results: one after the other is looked at and rated. See server/review.py.

import { ask } from "./api.js";
import { actionIn, listKeys } from "./help.js";
import { chosen, fillRow, listenToFilter, markCurrent, showFailed, showList } from "./results.js";
import { showResult } from "./result.js";
import { openViewer } from "./viewer.js";

const POLL = 10_000; // ms between looks for what others have rated
const KEYS = [
  ["next result", { j: () => go(1), n: () => go(1) }],
  ["previous result", { k: () => go(-1), p: () => go(-1) }],
  ["rate: pass, fix, fail", { a: () => rate("pass"), x: () => rate("fix"), d: () => rate("fail") }],
  ["write a note", { c: () => element("note").focus() }],
];
const TYPED = "input:not([type=checkbox], [type=radio], [type=range]), textarea, select";

const element = (id) => document.getElementById(id);
const buttons = [...document.querySelectorAll("#ratings button")];
// current: the result that is open, of `results`; said: what the server says of it, once it is here
const room = { version: "", results: [], shown: [], current: null, said: null, saving: false, wanted: null };
const viewer = openViewer(say, renew);

async function start() {
  element("curtain").textContent = "Loading …";
  listen();
  await refresh();
  openNamed();
  setInterval(() => document.hidden || refresh(), POLL);
}

function listen() {
  history.replaceState(null, "", location.pathname + location.hash); // without the key
  listenToFilter(showAll);
  document.addEventListener("keydown", press, true); // before NiiVue, which has keys, too
  window.addEventListener("hashchange", openNamed);
  buttons.forEach((button) => button.addEventListener("click", () => rate(button.dataset.rating)));
  element("previous").addEventListener("click", () => go(-1));
  element("next").addEventListener("click", () => go(1));
  element("words-said").addEventListener("submit", (event) => event.preventDefault());
  keep("who", "value");
  keep("go-on", "checked");
  element("note").addEventListener("keydown", (event) => leaveField(event, saveNote));
  element("who").addEventListener("keydown", (event) => leaveField(event, () => room.wanted && rate(room.wanted)));
  listKeys(KEYS);
}

/** Keep what is entered in a field for the next time. */
function keep(id, property) {
  const field = element(id), kept = localStorage.getItem(`review ${id}`);
  if (kept !== null) field[property] = property === "checked" ? kept === "true" : kept;
  field.addEventListener("input", () => localStorage.setItem(`review ${id}`, field[property]));
}

/** Say something to those who hear the page. */
function say(text) {
  if (element("live").textContent !== text) element("live").textContent = text;
}

function complain(text) {
  element("message").textContent = text;
}

/* ------------------------------------------------ keys */

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.closest?.(`${TYPED}, dialog`)) return;
  const action = actionIn(KEYS, event.key.toLowerCase());
  if (!action) return;
  event.preventDefault();
  event.stopPropagation();
  action();
}

/** In a field, Enter does what it is for, and both Enter and Escape lead back to the viewer. */
function leaveField(event, onEnter) {
  if (!["Enter", "Escape"].includes(event.key)) return;
  event.preventDefault();
  element("stage").focus({ preventScroll: true });
  if (event.key === "Enter") onEnter();
}

/* ------------------------------------------------ the list */

async function refresh() {
  try {
    const list = await ask(`api/results?seen=${room.version}`);
    if (element("message").dataset.lost) complain("");
    delete element("message").dataset.lost;
    if (list.results) take(list);
  } catch (error) {
    element("message").dataset.lost = true;
    complain(error.message);
  }
}

/** Take a new list over; what is open stays the current one. */
function take({ version, folder, results, failed }) {
  element("model").textContent = folder;
  showFailed(failed);
  Object.assign(room, { version, results });
  const current = room.results.find(({ id }) => id === room.current?.id);
  if (current) {
    room.current = current;
    showRating();
  }
  showAll();
}

function showAll() {
  room.shown = chosen(room.results, room.current);
  showList(room.shown, room.current, choose);
  const [count, all] = [room.shown.length, room.results.length];
  element("shown-count").textContent = all ? `${count} of ${all} shown` : "There are no results in this folder.";
  if (!all) element("curtain").textContent = "";
  showCount();
}

function showCount() {
  const rated = room.results.filter(({ rating }) => rating).length, all = room.results.length;
  const [bar, text] = element("rated-count").children;
  Object.assign(bar, { value: rated, max: all || 1 });
  text.textContent = `rated ${rated} of ${all}`;
}

/* ------------------------------------------------ opening */

function openNamed() {
  const named = room.results.find(({ id }) => `#${id}` === location.hash) ?? room.current ?? room.shown[0];
  if (named && named.id !== room.current?.id) open(named);
}

/** Open a result by its name in the address, so that the viewer may ask whether what was drawn goes. */
function choose({ id }) {
  location.hash = id;
}

/** Open the result that is `by` places further down the list. */
function go(by) {
  const next = room.shown[room.shown.indexOf(room.current) + by];
  if (next) choose(next);
  else say(by > 0 ? "This is the last one." : "This is the first one.");
}

async function open(result) {
  Object.assign(room, { current: result, said: null, wanted: null });
  history.replaceState(null, "", `#${result.id}`);
  element("note").value = result.rating?.note ?? "";
  complain("");
  markCurrent(result);
  showRating();
  element("stage").focus({ preventScroll: true });
  try {
    const said = await ask(`api/results/${result.id}`);
    if (room.current.id !== result.id) return;
    room.said = said;
    showRating();
    const job = { id: result.id, name: result.name, result: said };
    showResult(job, viewer.setRegion);
    await viewer.open(job);
    if (room.current.id === result.id) await preloadNext();
  } catch (error) {
    if (room.current.id === result.id) complain(error.message);
  }
}

/** Show what the server says of a result whose mask was corrected, and return it as a job. */
async function renew({ id, name }) {
  const job = { id, name, result: await ask(`api/results/${id}`) };
  room.said = job.result;
  await refresh();
  showResult(job, viewer.setRegion);
  return job;
}

/** Load the scan that comes next, for which nobody then waits. */
async function preloadNext() {
  const next = room.shown[room.shown.indexOf(room.current) + 1];
  if (!next) return;
  const { files } = await ask(`api/results/${next.id}`);
  const scan = files["coarse_scan.nii"] ?? files["scan.nii.gz"] ?? files["scan.nii"];
  if (scan) viewer.preload(scan);
}

/* ------------------------------------------------ rating */

function showRating() {
  const { rating = "", who = "", when, note } = room.current?.rating ?? {};
  for (const button of buttons) {
    button.disabled = !room.said?.mask_sha256;
    button.setAttribute("aria-pressed", button.dataset.rating === rating);
  }
  const day = when && new Date(when).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  element("rated").textContent = rating ? [`${rating}${who && ` by ${who}`}, ${day}`, note].filter(Boolean).join(" · ") : "Not rated yet.";
}

/** Save a rating, and go on once the server has it on its disk. */
async function rate(rating) {
  if (!room.said?.mask_sha256 || room.saving) return;
  const who = element("who").value.trim(), result = room.current;
  if (!who) {
    room.wanted = rating;
    complain("Who is looking? Your initials or name, once, then Enter.");
    return element("who").focus();
  }
  if (await send(result, { rating, who, note: element("note").value.trim() }) && element("go-on").checked) go(1);
}

/** Save the note of a result that was rated before; else it goes with the rating. */
async function saveNote() {
  const rating = room.current?.rating?.rating, who = element("who").value.trim();
  if (rating && who && room.said) await send(room.current, { rating, who, note: element("note").value.trim() });
}

/** Send a rating of the mask that is open; whether it is saved. */
async function send({ id }, words) {
  room.saving = true;
  try {
    const body = JSON.stringify({ ...words, mask_sha256: room.said.mask_sha256 });
    const headers = { "Content-Type": "application/json" };
    const rating = await ask(`api/results/${id}/rating`, { method: "POST", headers, body });
    const result = room.results.find((other) => other.id === id); // the list may be another by now
    if (result) Object.assign(result, { rating });
    complain("");
    say(`${result?.name}: ${rating.rating}`);
    room.wanted = null;
    if (result) fillRow(result);
    showRating();
    showCount();
    return room.current.id === id;
  } catch (error) {
    complain(`Not saved. ${error.message}`);
    return false;
  } finally {
    room.saving = false;
  }
}

start();
