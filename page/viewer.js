// The middle of the page: tools, stage, slice sliders and keys, for a scan as for a picture.

import { actionIn, listenForHelp, listKeys } from "./help.js";
import { maskOf, openPen, PEN_KEYS } from "./pen.js";
import { openPicture } from "./picture.js";
import { regionsOf } from "./result.js";
import { openScanViewer, PLANES, WINDOWS } from "./scan.js";

const VIEWS = ["all", "axial", "coronal", "sagittal", "render"];
const NAMES = { axial: "Axial", coronal: "Coronal", sagittal: "Sagittal", render: "3-D" };
const WHOLE_AFTER = 1500; // ms between a coarse view of a large scan and the whole
const FOCUSED = "input, select, button, a, summary"; // what has its own use for arrows

const element = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];

/**
 * The viewer: open(job, place), close(), goTo(place), setRegion(region). `say` speaks to those who hear the page;
 * `renew(job)` shows the job as the server tells of it once it was corrected, and promises it. A function given to
 * whenMoved() gets each place that is shown, {view, numbers}: slices by plane, from 1.
 */
export function openViewer(say, renew = async (job) => job) {
  const state = {
    view: "all", plane: "axial", window: "cta", shown: true, mode: "filled",
    opacity: { filled: 20, outline: 90 }, sizes: {}, voxel: [0, 0, 0],
    region: null, step: 1, opened: 0, making: null, scan: null, drawPicture: null, unit: "HU", say,
    channels: {}, channel: "", moved: () => {},
  };
  state.pen = openPen({ reopen: (job) => open(state, job), renew, say });
  listenToTools(state);
  listenToKeys(state);
  listKeys([...SCAN_KEYS, ...MASK_KEYS, ...PEN_KEYS, ["this list", { "?": null }], ...MOUSE]);
  listenForHelp();
  showTools(state);
  prepare(state, null);
  return {
    open: (job, place) => open(state, job, place),
    goTo: (place) => goTo(state, place),
    whenMoved: (moved) => (state.moved = moved),
    prepare: (url) => prepare(state, url),
    preload: (url) => state.scan?.prepare(url), // behind what is shown
    close: () => close(state),
    setRegion: (region) => setRegion(state, region),
  };
}

/* ------------------------------------------------ opening a result */

async function open(state, job, place = {}) {
  const { name, result } = job;
  close(state, "Loading …");
  const turn = state.opened;
  const isWanted = () => turn === state.opened; // until another is opened, or all is closed
  element("stage").setAttribute("aria-busy", "true");
  element("stage").setAttribute("aria-label", `${name} and its mask`);
  try {
    await (result.kind === "slice" ? openSlice : openScan)(state, result, isWanted, place);
    if (isWanted() && result.kind !== "slice") state.pen.offer(job, state.scan);
  } catch (error) {
    if (isWanted()) fallBack(job, error);
  }
  if (isWanted()) element("stage").removeAttribute("aria-busy");
}

async function openSlice(state, { files, labels }, isWanted) {
  const canvas = element("picture");
  const draw = await openPicture(canvas, files["picture.png"], files["mask.png"], labels);
  if (!isWanted()) return;
  state.drawPicture = draw;
  showLook(state);
  reveal(state, "picture");
  element("under").textContent = `${canvas.width} × ${canvas.height} pixels`;
}

async function openScan(state, result, isWanted, place) {
  element("scan").hidden = false;
  state.scan = await scanViewer(state);
  const { files } = result, scan = files["scan.nii.gz"] ?? files["scan.nii"];
  if (!scan) throw new Error(result.no_scan);
  if (files["coarse_scan.nii"]) {
    const coarse = { scan: files["coarse_scan.nii"], mask: files["coarse_mask.nii"] };
    await showScan(state, result, coarse, isWanted, { step: 2 });
    element("stage").removeAttribute("aria-busy");
    await pause(WHOLE_AFTER); // while who goes on at once need not wait for what nobody sees
    if (!isWanted()) return;
  }
  await showScan(state, result, { scan, mask: maskOf(result) }, isWanted, { place });
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Load and show a scan, of which every `step`-th voxel along each axis is there. */
async function showScan(state, result, urls, isWanted, { place, step = 1 }) {
  const images = await state.scan.load(urls);
  if (!isWanted()) return;
  const before = state.step > 1 && state.voxel.map((index) => index * state.step); // in the coarse one
  state.unit = result.kind === "case" ? "" : "HU";
  const range = state.unit ? rangeOf(state) : null;
  state.step = step;
  state.sizes = state.scan.show(images, { range, labels: result.labels, regions: regionsOf(result) });
  if (step > 1) PLANES.forEach((plane, axis) => (state.sizes[plane] = result.shape[axis]));
  listChannels(state, result);
  state.scan.setView(state.view);
  showLook(state);
  limitSliders(state);
  if (before) state.scan.moveTo(before);
  else state.scan.toMask();
  if (step === 1) goTo(state, place);
  reveal(state, "scan");
}

/** Show a place, {view, numbers}, of the scan that is open; what it does not say stays. */
function goTo(state, { view, numbers = {} }) {
  if (!state.sizes.axial) return;
  if (view) setView(state, view);
  for (const [plane, number] of Object.entries(numbers)) {
    state.scan.setSlice(plane, Math.min(number, state.sizes[plane]) - 1);
  }
}

/** Tell what is shown, for the address. */
function tellPlace({ view, voxel, sizes, step, moved }) {
  if (!sizes.axial || step > 1) return;
  moved({ view, numbers: Object.fromEntries(PLANES.map((plane, axis) => [plane, voxel[axis] + 1])) });
}

/** Make the viewer, for which the person then need not wait, and load a scan if there is one yet. */
async function prepare(state, url) {
  element("scan").hidden = false; // WebGL needs its size; the curtain is before it
  const scan = await scanViewer(state).catch(() => null);
  if (url) scan?.prepare(url);
}

/** The one viewer of scans, made when it is first needed; a failure is not kept. */
function scanViewer(state) {
  state.making ??= newScanViewer(state);
  state.making.catch(() => (state.making = null));
  return state.making;
}

async function newScanViewer(state) {
  const canvas = element("scan");
  const scan = await openScanViewer(canvas, {
    moved: (place) => showPlace(state, place),
    windowed: (range) => showWindow(state, range),
    drawn: () => state.pen.drawn(),
  });
  canvas.tabIndex = -1; // the stage around it takes the keys
  canvas.addEventListener("webglcontextlost", () => showCurtain("The browser has no memory left to show this scan."));
  return scan;
}

function reveal(state, shown) {
  for (const id of ["scan", "picture"]) element(id).hidden = id !== shown;
  const isScan = shown === "scan";
  for (const id of ["views", "windows"]) element(id).disabled = !isScan;
  element("windows").disabled ||= state.unit !== "HU";
  element("modalities").hidden = !isScan || Object.keys(state.channels).length < 2;
  element("windows").hidden = !element("modalities").hidden;
  element("overlay").disabled = false;
  showCurtain("");
  showTiles(state, isScan);
}

/** Where there is no viewer, or no WebGL 2, show the overlay that the server drew. */
function fallBack({ name, result }, error) {
  console.warn(error);
  element("scan").hidden = element("picture").hidden = true;
  const picture = element("fallback");
  picture.src = result.files["overlay.png"];
  picture.alt = `Slices of ${name} with the mask`;
  picture.hidden = false;
  const why = result.no_scan || "this browser cannot show the scan itself";
  showCurtain(`Here is the overlay: ${why}.`, true);
}

function close(state, curtain = "Drop a scan, or open the sample.") {
  state.opened += 1;
  state.pen.withdraw();
  state.scan?.close();
  Object.assign(state, { drawPicture: null, region: null, step: 1, sizes: {}, place: null, channels: {} });
  for (const id of ["picture", "fallback", "modalities"]) element(id).hidden = true;
  element("windows").hidden = false;
  for (const id of ["views", "windows", "overlay"]) element(id).disabled = true;
  all("#slices input").forEach((slider) => (slider.disabled = true));
  all("#slices output").forEach((output) => (output.textContent = ""));
  element("under").textContent = "";
  showTiles(state, false);
  showCurtain(curtain);
}

function showCurtain(text, isClear = false) {
  element("curtain").textContent = text;
  element("curtain").className = isClear ? "clear" : "";
}

/* ------------------------------------------------ tools */

function listenToTools(state) {
  const tools = element("tools");
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("change", ({ target }) => {
    if (target.name === "view") setView(state, target.value);
    if (target.name === "window") setWindow(state, target.value);
    if (target.name === "modality") setChannel(state, target.value);
    if (target.name === "fill") setMode(state, target.value);
    if (target.id === "shown") setShown(state, target.checked);
  });
  element("opacity").addEventListener("input", ({ target }) => setOpacity(state, +target.value));
  for (const slider of all("#slices input")) {
    slider.addEventListener("input", () => {
      setPlane(state, slider.dataset.plane);
      state.scan.setSlice(slider.dataset.plane, Math.floor(slider.value / state.step));
    });
  }
}

/** Bring the tools in line with the state: keys change it, too. */
function showTools(state) {
  const tools = element("tools").elements;
  tools.view.value = state.view;
  for (const radio of tools.window) radio.checked = radio.value === state.window;
  tools.fill.value = state.mode;
  element("shown").checked = state.shown;
  element("opacity").value = state.opacity[state.mode];
  element("opacity-value").textContent = `${state.opacity[state.mode]} %`;
}

function setView(state, view) {
  state.view = view;
  if (PLANES.includes(view)) state.plane = view;
  element("stage").dataset.view = view;
  state.scan?.setView(view);
  showTools(state);
  showTiles(state, true);
  tellPlace(state);
}

/** The channels of a case, {name: address of its file}, to choose of; the first shown is FLAIR. */
function listChannels(state, { files, channels = {} }) {
  state.channels = Object.fromEntries(Object.entries(channels).map(([name, file]) => [name, files[file]]));
  state.channel = Object.keys(channels).find((name) => channels[name] === "scan.nii.gz");
  const rows = Object.keys(channels).map((name) => {
    const row = document.createElement("label"), text = document.createElement("span");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "modality", value: name });
    input.checked = name === state.channel;
    text.textContent = name.toUpperCase();
    row.append(input, text);
    return row;
  });
  element("modalities").replaceChildren(element("modalities").querySelector("legend"), ...rows);
}

async function setChannel(state, name) {
  state.channel = name;
  for (const radio of all("#modalities input")) radio.checked = radio.value === name;
  const turn = state.opened;
  try {
    await state.scan.setImage(state.channels[name]);
    if (turn === state.opened) state.say(`${name.toUpperCase()} shown`);
  } catch (error) {
    if (turn === state.opened) showCurtain(`${name.toUpperCase()} cannot be shown: ${error.message}`, true);
  }
}

function setWindow(state, name) {
  state.window = name;
  state.scan?.setWindow(WINDOWS[name]);
  showTools(state);
  showUnder(state);
}

/** The scan has a window, perhaps one that the person dragged. */
function showWindow(state, range) {
  if (!state.unit) return;
  const same = (name) => WINDOWS[name].every((limit, i) => limit === range[i]);
  state.window = Object.keys(WINDOWS).find(same) ?? range;
  showTools(state);
  showUnder(state);
}

const rangeOf = ({ window }) => WINDOWS[window] ?? window;

function setShown(state, shown) {
  state.shown = shown;
  state.say(shown ? "Mask shown" : "Mask hidden");
  showLook(state);
}

function setMode(state, mode) {
  state.mode = mode;
  showLook(state);
}

function setOpacity(state, percent) {
  state.opacity[state.mode] = Math.min(100, Math.max(5, percent));
  showLook(state);
}

function showLook(state) {
  showTools(state);
  const look = lookOf(state);
  state.scan?.setLook(look);
  state.drawPicture?.(look, state.region);
}

/** Show one region of a mask of several labels, or all of them when null. */
function setRegion(state, region) {
  state.region = region;
  if (state.drawPicture) showLook(state);
  else state.scan?.setRegion(region);
}

function lookOf({ shown, mode, opacity }) {
  const share = opacity[mode] / 100;
  if (!shown) return { fill: 0, line: 0, surface: 0 };
  if (mode === "outline") return { fill: 0, line: share, surface: share };
  return { fill: share, line: Math.min(1, share + 0.75), surface: share };
}

function setPlane(state, plane) {
  state.plane = plane;
  showTiles(state, true);
}

/* ------------------------------------------------ where the cross is */

function limitSliders({ sizes }) {
  for (const slider of all("#slices input")) {
    slider.max = sizes[slider.dataset.plane] - 1;
    slider.disabled = false;
  }
}

function showPlace(state, place) {
  Object.assign(state, { voxel: place.voxel, place });
  if (place.plane && place.plane !== state.plane) state.plane = place.plane;
  showTiles(state, true);
  showUnder(state);
  for (const slider of all("#slices input")) {
    const index = place.voxel[PLANES.indexOf(slider.dataset.plane)];
    slider.value = index * state.step;
    slider.nextElementSibling.textContent = numberOf(state, slider.dataset.plane);
  }
  tellPlace(state);
}

function numberOf({ sizes, voxel, step }, plane) {
  const index = voxel[PLANES.indexOf(plane)] * step;
  return sizes[plane] ? `${index + 1} / ${sizes[plane]}` : `${index + 1}`;
}

function showTiles(state, isScan) {
  for (const tile of all(".tile")) {
    const plane = tile.dataset.plane;
    tile.hidden = !isScan || (state.view !== "all" && state.view !== plane);
    const number = PLANES.includes(plane) && state.sizes[plane] ? numberOf(state, plane) : "";
    tile.textContent = `${NAMES[plane]} ${number}`;
    tile.classList.toggle("active", plane === state.plane);
  }
}

/** The line below the slices: place in mm, value, label, window. */
function showUnder({ place, unit, window, step }) {
  if (!place) return;
  const [low, high] = rangeOf({ window });
  const letters = ["LR", "PA", "IS"].map(([less, more], axis) =>
    `${place.mm[axis] < 0 ? less : more} ${Math.abs(place.mm[axis]).toFixed(1)}`);
  const width = unit && `W ${Math.round(high - low)} L ${Math.round((high + low) / 2)}`;
  const value = `${Math.round(place.value)} ${unit}`;
  const coarse = step > 1 && "every second voxel; the whole follows";
  element("under").textContent =
    [`${letters.join(" ")} mm`, value, place.label || "outside the mask", width, coarse].filter(Boolean).join("   ·   ");
}

/* ------------------------------------------------ keys */

// Only while the viewer has the focus: single letters must not surprise who types elsewhere.
function listenToKeys(state) {
  element("viewer").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = actionOf(event);
    if (action) {
      action(state);
      event.preventDefault();
    }
    if (action || event.target === element("scan")) event.stopPropagation(); // NiiVue has keys, too
  }, true);
  element("stage").addEventListener("keyup", (event) => event.stopPropagation(), true);
}

function actionOf({ key, target }) {
  if (target.closest(FOCUSED) && /^(Arrow|Page)/.test(key)) return null;
  const name = key.length === 1 ? key.toLowerCase() : key;
  const ofScan = element("views").disabled ? null : actionIn(SCAN_KEYS, name);
  return ofScan ?? (element("overlay").disabled ? null : actionIn(MASK_KEYS, name));
}

// What each key does, for those who press it and for those who ask: [in words, {key: action}]
const SCAN_KEYS = [
  ["all planes, axial, coronal, sagittal, 3-D",
    Object.fromEntries(VIEWS.map((view, i) => [i + 1, (state) => setView(state, view)]))],
  ["next and previous slice", {
    ArrowUp: (state) => state.scan.step(state.plane, 1),
    ArrowDown: (state) => state.scan.step(state.plane, -1),
  }],
  ["ten slices on, ten back", {
    PageUp: (state) => state.scan.step(state.plane, 10),
    PageDown: (state) => state.scan.step(state.plane, -10),
  }],
  ["the plane that these move; in 3-D, turn the head", {
    ArrowLeft: (state) => turn(state, -1),
    ArrowRight: (state) => turn(state, 1),
  }],
  ["next window; of an MRI, the next channel", { w: (state) => showNext(state) }],
  ["larger and smaller", {
    "+": (state) => state.scan.zoom(1.25),
    "=": (state) => state.scan.zoom(1.25),
    "-": (state) => state.scan.zoom(0.8),
  }],
  ["the whole again", { 0: (state) => state.scan.zoom(0) }],
];

const MASK_KEYS = [
  ["mask on or off", { m: (state) => setShown(state, !state.shown) }],
  ["outline or filled", { o: (state) => setMode(state, state.mode === "filled" ? "outline" : "filled") }],
  ["fainter and stronger", {
    "[": (state) => setOpacity(state, state.opacity[state.mode] - 5),
    "]": (state) => setOpacity(state, state.opacity[state.mode] + 5),
  }],
];

const MOUSE = [
  ["moves the cross, turns the 3-D view; with Shift, pans", "Left button"],
  ["changes the window", "Right button"],
  ["changes the slice", "Wheel"],
];

const after = (list, item, by = 1) => list[(list.indexOf(item) + by + list.length) % list.length];

/** In 3-D, turn the head; of several planes, take the next for the keys; of one, show the next. */
function turn(state, by) {
  if (state.view === "render") return state.scan.turn(5 * by);
  const planes = ["axial", "coronal", "sagittal"];
  const plane = after(planes, state.plane, by);
  return state.view === "all" ? setPlane(state, plane) : setView(state, plane);
}

function showNext(state) {
  const names = Object.keys(state.channels);
  if (state.unit) setWindow(state, after(Object.keys(WINDOWS), state.window));
  else if (names.length > 1) setChannel(state, after(names, state.channel));
}
