// The list of jobs. Rows stay the same elements while a job runs, so that focus is never lost.

import { make } from "./dom.js";

const rows = new Map(); // a job's id -> its row's elements
const STATES = { queued: "waiting" }; // where the API has another word

/** Show `jobs`; `does` holds what to do on open(job) and close(job). */
export function showJobs(jobs, current, does) {
  for (const [id, row] of rows) {
    if (!jobs.some((job) => job.id === id)) {
      row.item.remove();
      rows.delete(id);
    }
  }
  const list = document.getElementById("jobs");
  jobs.forEach((job, i) => {
    const row = rows.get(job.id) ?? newRow(job.id);
    if (list.children[i] !== row.item) list.insertBefore(row.item, list.children[i] ?? null);
    fill(row, job, job.id === current, does);
  });
  document.getElementById("no-jobs").hidden = jobs.length > 0;
}

function newRow(id) {
  const row = {
    item: make("li", "job"),
    open: make("button", "open"),
    name: make("span", "name"),
    state: make("span", "state"),
    bar: make("progress", ""),
    close: make("button", "close"),
  };
  row.open.type = row.close.type = "button";
  row.open.append(row.name, row.state, row.bar);
  row.item.append(row.open, row.close);
  rows.set(id, row);
  return row;
}

function fill(row, job, isCurrent, does) {
  const busy = ["sending", "queued", "running"].includes(job.state);
  row.item.dataset.state = job.state;
  row.item.setAttribute("aria-current", isCurrent);
  put(row.name, job.name);
  put(row.state, stateOf(job));
  row.state.title = job.error || "";
  row.bar.className = busy ? "" : "idle";
  row.bar.setAttribute("aria-label", `Progress of ${job.name}`);
  row.bar.value = job.progress ?? 0;
  row.open.setAttribute("aria-disabled", job.state !== "done");
  row.open.onclick = () => does.open(job);
  put(row.close, busy ? "Cancel" : "Delete");
  row.close.setAttribute("aria-label", `${busy ? "Cancel" : "Delete"} ${job.name}`);
  row.close.onclick = () => does.close(job);
}

/** Set a text only where it differs: readers of the screen hear every change. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function stateOf({ state, stage, progress, error, result }) {
  if (state === "sending" && !stage) return "waiting to be sent";
  if (state === "sending" || state === "running") return `${stage || "starting"}, ${Math.round(100 * (progress ?? 0))} %`;
  if (state === "failed") return error || "failed";
  if (state !== "done") return STATES[state] ?? state;
  const ml = result.corrections?.at(-1)?.volume_ml ?? result.volume_ml;
  const size = ml == null ? null : `${Math.round(ml)} mL`;
  return [size, result.verdict, `${(+result.seconds).toFixed(1)} s`].filter(Boolean).join(" · ");
}
