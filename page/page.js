// The page: what happens when the person does something, or the server has got further.

import * as api from "./api.js";
import { chosen, dropped, sorted } from "./files.js";
import { askChannels } from "./channels.js";
import { showJobs } from "./jobs.js";
import { showResult } from "./result.js";
import { openViewer } from "./viewer.js";

const POLL = 400; // ms between questions while a job is under way
const NARROW = matchMedia("(max-width: 719px)"); // where one column is all there is, as in page.css
const SOURCES = { scan: "CT", case: "MRI" }; // what a task is done on
const SCANS = "NIfTI, NRRD, MHA, DICOM folder or .zip, PNG or JPEG slice";
const ACTIVE = ["sending", "queued", "running"];

const element = (id) => document.getElementById(id);
const room = { about: null, jobs: [], sending: [], current: null, awaited: null, timer: 0, asked: 0, sent: 0 };
const viewer = openViewer(say, renew);

async function start() {
  listenForFiles();
  element("task").addEventListener("change", showTask);
  window.addEventListener("hashchange", openNamed);
  try {
    room.about = await api.about();
    showAbout(room.about);
    await refresh();
    openNamed();
  } catch (error) {
    complain(error.message);
  }
}

function showAbout({ tasks, max_mb: limit }) {
  element("task").replaceChildren(...tasks.map(({ name, kind }) => new Option(`${name} · ${SOURCES[kind]}`, name)));
  element("tasks").hidden = tasks.length < 2;
  showTask();
  const size = limit >= 1024 ? `${+(limit / 1024).toFixed(1)} GB` : `${limit} MB`;
  element("limit").textContent = `; up to ${size}`;
}

const inWords = (channels) => channels.map((channel) => channel.toUpperCase()).join(", ");

/** The task that is chosen, of those that the server offers. */
const task = () => room.about?.tasks.find(({ name }) => name === element("task").value);

function showTask() {
  const { model, channels, kind } = task();
  element("model").textContent = `${model.name} ${model.sha256?.slice(0, 8) ?? ""}`;
  element("model").title = `The model and its checksum: ${model.sha256}`;
  element("sample").disabled = kind === "case"; // it is a CT
  element("kinds").textContent = kind === "scan" ? SCANS : `NIfTI files of one case: ${inWords(channels)}`;
}

/** Say something to those who hear the page. */
function say(text) {
  if (element("live").textContent !== text) element("live").textContent = text;
}

function complain(text) {
  if (element("message").textContent !== text) element("message").textContent = text;
}

/* ------------------------------------------------ scans in */

function listenForFiles() {
  for (const id of ["choose-files", "choose-folder"]) {
    element(id).addEventListener("change", (event) => {
      take(chosen(event.target));
      event.target.value = ""; // so that the same file can be chosen again
    });
  }
  element("sample").addEventListener("click", () => {
    complain("");
    begin(api.sample(task()?.name ?? ""));
  });
  // Captured, so that NiiVue does not swallow what is dropped onto its canvas.
  document.addEventListener("dragover", (event) => hover(event, true), true);
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? hover(event, false), true);
  document.addEventListener("drop", async (event) => {
    hover(event, false);
    take(await dropped(event.dataTransfer));
  }, true);
}

function hover(event, over) {
  event.preventDefault();
  element("drop").classList.toggle("over", over);
}

async function take(entries) {
  complain("");
  const wanted = task();
  if (!wanted) return complain(api.UNREACHED);
  const { jobs, cases } = sorted(entries, wanted.kind === "case");
  if (!jobs.length && !cases.length) complain("There is no file in that.");
  jobs.forEach((job) => send(job, { task: wanted.name }));
  for (const found of cases) {
    const channels = await askChannels(found, wanted).catch(({ message }) => complain(message));
    if (channels) send(found, { task: wanted.name, channels: JSON.stringify(channels) });
  }
}

function send({ name, entries }, fields) {
  const size = entries.reduce((sum, { file }) => sum + file.size, 0);
  const limit = room.about?.max_mb ?? Infinity;
  if (size > limit * 2 ** 20) {
    complain(`${name} has ${Math.ceil(size / 2 ** 20)} MB; this server takes up to ${limit} MB.`);
    return;
  }
  const job = { id: `sent ${++room.sent}`, name, entries, fields, state: "sending", progress: 0 };
  job.stop = () => forget(job);
  room.sending.push(job);
  show();
  if (room.sending.length === 1) sendNext();
}

/** Upload what is first in line: one after the other, for the first brings the browser's cookie. */
async function sendNext() {
  const [job] = room.sending;
  if (!job) return;
  const { done, stop } = api.upload(job.entries, job.fields, (share) => {
    Object.assign(job, { progress: share, stage: "uploading" });
    show();
  });
  job.stop = stop;
  await begin(done, job);
  sendNext();
}

function forget(job) {
  room.sending = room.sending.filter((other) => other !== job);
  show();
}

/** Follow a job that is being made, of the upload `sent`, and open its result when it is there. */
async function begin(made, sent) {
  try {
    room.awaited = (await made).id;
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
  }
  forget(sent);
  await refresh();
}

/* ------------------------------------------------ jobs */

async function refresh() {
  const asked = ++room.asked;
  try {
    const jobs = await api.jobs();
    if (asked !== room.asked) return; // a later question is under way
    room.jobs = jobs;
    if (element("message").textContent === api.UNREACHED) complain("");
  } catch (error) {
    complain(error.message);
  }
  show();
  openAwaited();
  clearTimeout(room.timer);
  if (room.jobs.some(isActive)) room.timer = setTimeout(refresh, POLL);
}

const isActive = (job) => ACTIVE.includes(job.state);

function show() {
  showJobs([...room.sending.toReversed(), ...room.jobs], room.current?.id, { open: choose, close: end });
}

async function end(job) {
  if (job.stop) return job.stop();
  try {
    await api.remove(job.id);
    if (room.current?.id === job.id && !isActive(job)) leave();
  } catch (error) {
    complain(error.message);
  }
  return refresh();
}

/* ------------------------------------------------ results */

function openAwaited() {
  const job = room.jobs.find(({ id }) => id === room.awaited);
  if (!job) return;
  if (isActive(job)) {
    say(`${job.name}: ${job.stage || "waiting"}`);
    if (job.scan) viewer.prepare(job.scan);
    return;
  }
  if (job.state === "failed") complain(job.error);
  else say(`${job.name}: ${job.state}`);
  choose(job);
}

/** Make a job the current one by its name in the address, so that a reload finds it again. */
function choose(job) {
  room.awaited = null; // what the person looks at is not taken away by a job that ends
  if (job.state !== "done") return;
  if (location.hash === `#${job.id}`) openNamed();
  else location.hash = job.id;
}

function openNamed() {
  const job = room.jobs.find(({ id, state }) => `#${id}` === location.hash && state === "done");
  if (!job || job.id === room.current?.id) return;
  room.current = job;
  show();
  showResult(job, viewer.setRegion);
  viewer.open(job);
  lookAtViewer();
}

/** Show what the server says of a job that was corrected, and return it. */
async function renew({ id }) {
  await refresh();
  room.current = room.jobs.find((job) => job.id === id) ?? room.current;
  showResult(room.current, viewer.setRegion);
  return room.current;
}

/** Bring the viewer into sight and under the keys, unless the person is at something else. */
function lookAtViewer() {
  if (NARROW.matches) element("viewer").scrollIntoView();
  if (document.activeElement.matches("body, .open, #intake input, #sample")) {
    element("stage").focus({ preventScroll: true });
  }
}

function leave() {
  room.current = null;
  history.replaceState(null, "", location.pathname);
  showResult(null);
  viewer.close();
}

start();
