// The right-hand panel: verdict, volume, reasons, regions, downloads.

import { explainVerdict, verdictWords } from "./help.js";
import { maskOf, wordsOf } from "./pen.js";

const element = (id) => document.getElementById(id);

const DOWNLOADS = [ // in this order, those that the result has
  ["corrected_mask.nii.gz", "Corrected mask", "NIfTI"],
  ["mask.nii.gz", "Mask", "NIfTI"],
  ["mask.dcm", "Mask", "DICOM SEG"],
  ["mask.png", "Mask", "PNG"],
  ["brain.nii.gz", "Brain alone", "NIfTI"],
  ["overlay.png", "Overlay", "PNG"],
  ["result.json", "Report", "JSON"],
];

/** Show a job's result, or that there is none. `onRegion` gets a region, or null for all labels. */
export function showResult(job, onRegion) {
  const result = job?.result;
  element("result-name").textContent = job?.name ?? "Result";
  showVerdict(result);
  showSize(result);
  showReasons(result);
  showRegions(result, onRegion);
  showDownloads(result);
}

function showVerdict(result) {
  const grade = result?.verdict || "none";
  element("verdict").dataset.grade = grade;
  element("grade").textContent = grade === "none" ? "–" : grade;
  const none = result ? "Only the brain's mask in a scan gets a verdict." : "";
  element("grade-means").textContent = none;
  element("why").hidden = grade === "none";
  element("why").onclick = () => explainVerdict(result);
  if (grade !== "none") showMeaning(grade);
}

/** Say in a line what a grade means, once the server has told it. */
async function showMeaning(grade) {
  const { grades } = await verdictWords();
  if (element("verdict").dataset.grade === grade) element("grade-means").textContent = grades[grade]?.means ?? "";
}

function showSize(result) {
  const isSlice = result?.kind === "slice";
  const pixels = result?.brain_pixels ?? result?.labelled_pixels;
  element("size-name").textContent = isSlice ? "Area" : "Volume";
  const ml = newest(result)?.volume_ml?.toFixed(1) ?? result?.volume_ml;
  element("size").textContent = !result ? "–" : isSlice ? `${pixels.toLocaleString("en")} px` : `${ml} mL`;
  element("seconds").textContent = result ? `${(+result.seconds).toFixed(1)} s` : "–";
}

const newest = (result) => result?.corrections?.at(-1);

function showReasons(result) {
  const correction = newest(result);
  const lines = [
    ...(correction ? [line(correctionOf(correction), "note")] : []),
    ...(result?.reasons ?? []).map((text) => line(text, "reason")),
    ...(result?.notes ?? []).map((text) => line(text, "note")),
  ];
  element("reasons").replaceChildren(...lines);
}

const correctionOf = (entry) =>
  `Corrected${entry.who && ` by ${entry.who}`}: ${wordsOf(entry)}. Verdict, reasons and all other files are those of the mask as it was predicted.`;

function line(text, className) {
  const item = document.createElement("li");
  item.className = className;
  item.textContent = text;
  return item;
}

/* ------------------------------------------------ regions: for masks of several labels */

function showRegions(result, onRegion) {
  const regions = result ? regionsOf(result).map((region) => ({ ...region, ml: mlOf(result, region) })) : [];
  element("regions").hidden = !regions.length;
  const all = { name: "All", choose: () => onRegion(null) };
  const each = regions.map((region, index) => ({ ...region, choose: () => onRegion({ ...region, index }) }));
  element("region-rows").replaceChildren(...[all, ...each].map(regionRow));
}

/** The mL of a region: of the mask that counts. */
function mlOf(result, { values, ml }) {
  const volumes = newest(result)?.volumes_ml;
  if (!volumes) return ml;
  const labels = result.labels.filter(({ value }) => values.includes(value));
  return +labels.reduce((sum, { name }) => sum + volumes[name], 0).toFixed(2);
}

const asRegion = ({ value, ...label }) => ({ ...label, values: [value] });
const isFirstOfItsName = ({ name }, i, all) => all.findIndex((other) => other.name === name) === i;

/** The regions that a result's masks can show, in the order of `setRegion`'s indices. */
export const regionsOf = ({ labels = [], regions = [] }) =>
  labels.length < 2 ? [] : [...regions, ...labels.map(asRegion)].filter(isFirstOfItsName);

function regionRow({ name, ml, colour, choose }, i) {
  const row = document.createElement("label");
  row.className = "region";
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "region", checked: i === 0 });
  input.onchange = choose;
  const patch = document.createElement("i");
  patch.style.setProperty("--colour", colour ?? "transparent");
  const text = document.createElement("span");
  text.textContent = name;
  const size = document.createElement("small");
  size.textContent = ml == null ? "" : `${ml} mL`;
  row.append(input, patch, text, size);
  return row;
}

/* ------------------------------------------------ downloads */

function showDownloads(result) {
  const files = result?.files ?? {};
  const isOlder = (name) => newest(result) && name !== "result.json" && files[name] !== maskOf(result);
  const nameOf = (name, text) => (isOlder(name) ? `${text}, as predicted` : text);
  const links = DOWNLOADS.filter(([name]) => files[name])
    .map(([name, text, kind]) => link(files[name], nameOf(name, text), kind));
  element("files").replaceChildren(...(links.length ? links : [line("Nothing yet.", "none")]));
}

function link(url, text, kind) {
  const item = document.createElement("li");
  const made = document.createElement("a");
  made.href = url;
  made.download = "";
  made.textContent = text;
  made.dataset.kind = kind;
  made.setAttribute("aria-label", `${text}, ${kind}`);
  item.append(made);
  return item;
}
