// Correcting a mask: the tools of the pen, its keys, saving, taking back. page/drawing.js paints.

import { ask } from "./api.js";
import { actionIn } from "./help.js";

const BONE = 250; // HU: bone is brighter, as in scan/hu.py
const SIZES = [1, 3, 5, 7, 9, 13, 17, 23, 31, 41, 55]; // voxels across a brush
const FIRST = 3; // of these, at the start

/** Keys while a mask is being corrected, as the viewer's: [in words, {key: action}]. */
const WHILE_ON = [
  ["correcting: draw, erase", { b: (state) => setMode(state, "draw"), e: (state) => setMode(state, "erase") }],
  ["correcting: fill what a stroke encloses", { f: (state) => flip(state, "pen-fill") }],
  ["correcting: stop at bone", { t: (state) => flip(state, "pen-bone") }],
  ["correcting: smaller and larger brush", { ",": (state) => resize(state, -1), ".": (state) => resize(state, 1) }],
  ["correcting: leave", { Escape: (state) => leave(state) }],
];
/** All keys of the pen, for the list of keys. */
export const PEN_KEYS = [
  ["correct the mask", { e: null }],
  ...WHILE_ON,
  ["correcting: undo a stroke; save", { "Ctrl Z": null, "Ctrl S": null }],
  ["correcting: smaller and larger brush", "Shift and wheel"],
];
const WITH_CONTROL = { z: (state) => undo(state), s: (state) => save(state) };
const OF_VIEWER = "12345wmo[]+-=0? "; // keys that the viewer keeps meanwhile
const TYPED = "input:not([type=checkbox], [type=radio], [type=range]), textarea, select";

const element = (id) => document.getElementById(id);

/**
 * The pen of the viewer: offer(job, scan) after a result is shown, withdraw() when it goes. `does` holds
 * reopen(job), which shows a result anew, renew(job), which promises the job as the server tells of it now,
 * and say(text).
 */
export function openPen(does) {
  const state = { does, job: null, scan: null, on: false, busy: false, value: 1, mode: "draw", size: FIRST };
  listenToTools(state);
  listenToMouse(state);
  window.addEventListener("keydown", (event) => press(state, event), true);
  window.addEventListener("beforeunload", (event) => isChanged(state) && event.preventDefault());
  window.addEventListener("hashchange", (event) => stay(state, event)); // before the page hears of it
  show(state);
  return {
    offer: (job, scan) => offer(state, job, scan),
    withdraw: () => withdraw(state),
    drawn: () => show(state),
  };
}

function offer(state, job, scan) {
  Object.assign(state, { job, scan });
  complain("");
  show(state);
}

function withdraw(state) {
  if (state.on) state.scan.drawing.stop();
  Object.assign(state, { job: null, on: false });
  complain("");
  show(state);
}

const isChanged = ({ on, scan }) => on && scan.drawing.isChanged();
const newest = ({ result }) => result.corrections?.at(-1);
/** The address of the mask that counts, of a result. */
export const maskOf = ({ files }) => files["corrected_mask.nii.gz"] ?? files["mask.nii.gz"];

/* ------------------------------------------------ beginning and leaving */

async function begin(state) {
  const { job, scan } = state;
  const allRegions = document.querySelector("#region-rows input");
  if (allRegions && !allRegions.checked) allRegions.click(); // what is drawn has the labels' own values
  await busily(state, async () => {
    await scan.drawing.start(maskOf(job.result));
    if (state.job !== job) return;
    state.on = true;
    showLabels(state);
    setTool(state);
    element("stage").focus({ preventScroll: true });
    state.does.say("Correcting the mask");
  });
}

/** Do something that takes a while; what goes wrong is told. */
async function busily(state, work) {
  if (state.busy) return;
  state.busy = true;
  complain("");
  show(state);
  try {
    await work();
  } catch (error) {
    complain(error.message);
  }
  state.busy = false;
  show(state);
}

const mayDiscard = (state) => !isChanged(state) || confirm("Leave without saving what you have drawn?");

function leave(state) {
  if (state.busy || !mayDiscard(state)) return;
  const { job, scan } = state, isLost = isChanged(state);
  scan.drawing.stop();
  state.on = false;
  show(state);
  if (isLost) state.does.reopen(job);
}

/** Another result is asked for by its name in the address: stay, unless the person lets go of the strokes. */
function stay(state, event) {
  if (mayDiscard(state)) return;
  event.stopImmediatePropagation();
  history.replaceState(null, "", event.oldURL);
}

/* ------------------------------------------------ saving */

/** The address of corrections, which names what the person began with: others may correct the same. */
function addressOf({ job }) {
  const said = { who: localStorage.getItem("review who") ?? "", seen: newest(job)?.sha256 ?? "" };
  return `${job.result.correction}?${new URLSearchParams(said)}`;
}

async function save(state) {
  const { job, scan } = state;
  if (!isChanged(state)) return;
  await busily(state, async () => {
    const body = await scan.drawing.pack();
    const headers = { "Content-Type": "application/gzip" };
    const entry = await ask(addressOf(state), { method: "POST", headers, body });
    job.result.corrections = [...(job.result.corrections ?? []), entry];
    if (state.job !== job) return;
    scan.drawing.setSaved();
    state.job = await state.does.renew(job);
    state.does.say(`Saved: ${wordsOf(entry)}`);
  });
}

async function takeBack(state) {
  const { job } = state;
  if (!newest(job) || !confirm("Take back the correction that was saved last? Its file is kept.")) return;
  await busily(state, async () => {
    await ask(addressOf(state), { method: "DELETE" });
    if (state.job === job) await state.does.reopen(await state.does.renew(job));
  });
}

/** What a correction says, in words. */
export function wordsOf({ added_ml: added, removed_ml: removed, relabelled_ml: changed, slices }) {
  const parts = [`+${added.toFixed(1)} mL`, `−${removed.toFixed(1)} mL`];
  if (changed) parts.push(`${changed.toFixed(1)} mL of another label`);
  return `${parts.join(", ")} in ${slices} ${slices === 1 ? "slice" : "slices"}`;
}

/* ------------------------------------------------ tools */

function listenToTools(state) {
  element("correct").addEventListener("click", () => (state.on ? leave(state) : begin(state)));
  element("pen-undo").addEventListener("click", () => undo(state));
  element("pen-save").addEventListener("click", () => save(state));
  element("pen-back").addEventListener("click", () => takeBack(state));
  for (const kind of ["input", "change"]) element("pen").addEventListener(kind, ({ target }) => choose(state, target));
}

function choose(state, { name, id, value }) {
  if (name === "pen-mode") state.mode = value;
  if (id === "pen-size") state.size = +value;
  if (id === "pen-label") state.value = +value;
  setTool(state);
}

function setMode(state, mode) {
  state.mode = mode;
  setTool(state);
}

function flip(state, id) {
  if (!element(id).closest("label").hidden) element(id).checked = !element(id).checked;
  setTool(state);
}

function resize(state, by) {
  state.size = Math.min(SIZES.length - 1, Math.max(0, state.size + by));
  setTool(state);
}

function undo(state) {
  if (state.on && !state.busy) state.scan.drawing.undo();
}

function setTool(state) {
  const limit = isCt(state) && element("pen-bone").checked ? BONE : null;
  const value = state.mode === "erase" ? 0 : state.value;
  if (state.on) state.scan.drawing.setTool({ value, isFilled: element("pen-fill").checked, size: SIZES[state.size], limit });
  show(state);
  hideBrush();
}

const isCt = ({ job }) => job?.result.kind === "scan";

function showLabels(state) {
  const { labels } = state.job.result;
  element("pen-label").replaceChildren(...labels.map(({ value, name }) => new Option(name, value)));
  if (!labels.some(({ value }) => value === state.value)) state.value = labels[0].value;
  element("pen-label").value = state.value;
}

/** Bring tools and page in line with the state. */
function show(state) {
  const { job, on, busy, scan } = state, changed = isChanged(state);
  element("correct").disabled = !job?.result.correction || busy;
  element("correct").setAttribute("aria-pressed", on);
  element("correct").textContent = on ? "Leave" : "Correct";
  element("pen").hidden = !on;
  if (!on) hideBrush();
  for (const radio of document.getElementsByName("pen-mode")) radio.checked = radio.value === state.mode;
  element("pen-label").closest("label").hidden = !(job?.result.labels.length > 1);
  element("pen-bone").closest("label").hidden = !isCt(state);
  element("pen-size").max = SIZES.length - 1;
  element("pen-size").value = state.size;
  element("pen-size").disabled = element("pen-fill").checked;
  element("pen-size-value").textContent = `${SIZES[state.size]} px`;
  element("pen-undo").disabled = busy || !on || !scan.drawing.canUndo();
  element("pen-save").disabled = busy || !changed;
  element("pen-back").disabled = busy || changed || !job || !newest(job);
  element("regions").disabled = on;
  element("stage").classList.toggle("drawing", on);
  // no click elsewhere takes away what is not saved
  for (const part of document.querySelectorAll("main > section:not(#viewer)")) part.inert = changed || (busy && on);
}

function complain(text) {
  element("pen-message").textContent = text;
}

/* ------------------------------------------------ mouse and keys */

function listenToMouse(state) {
  const stage = element("stage");
  stage.addEventListener("wheel", (event) => {
    if (!state.on || !event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation(); // NiiVue would change the slice
    resize(state, event.deltaY + event.deltaX > 0 ? -1 : 1);
    showBrush(state, event);
  }, { capture: true, passive: false });
  stage.addEventListener("pointermove", (event) => showBrush(state, event), true);
  stage.addEventListener("pointerleave", hideBrush);
}

/** Show how much the brush covers, about the mouse. */
function showBrush(state, { clientX, clientY }) {
  if (!state.on) return;
  const { left, top } = element("stage").getBoundingClientRect();
  const width = state.scan.drawing.measureBrush(clientX - left, clientY - top);
  element("brush").hidden = !width;
  const style = { left: `${clientX - left}px`, top: `${clientY - top}px`, width: `${width}px` };
  Object.assign(element("brush").style, style);
}

const hideBrush = () => (element("brush").hidden = true);

/** Keys of the pen go before all others; while something is not saved, no other page's key leads away. */
function press(state, event) {
  if (event.target.closest?.(TYPED) || event.altKey) return;
  const key = event.key.toLowerCase(), isControl = event.ctrlKey || event.metaKey;
  if (!state.on) {
    const isMeant = key === "e" && !isControl && event.target.closest?.("#viewer");
    if (isMeant && !element("correct").disabled) begin(state);
    return;
  }
  if (isControl && !WITH_CONTROL[key]) return;
  const action = isControl ? WITH_CONTROL[key] : actionIn(WHILE_ON, event.key.length === 1 ? key : event.key);
  const isOthers = key.length === 1 && !OF_VIEWER.includes(key) && isChanged(state);
  if (!action && !isOthers) return;
  event.stopImmediatePropagation();
  if (!action) return;
  event.preventDefault();
  action(state);
}
