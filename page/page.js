// The page: what happens when the person does something, or the server has got further.

import { readAddress, writeAddress } from "./address.js";
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
const PAUSE = 300; // ms without a move before the address follows: browsers refuse many changes at once
const MOST_SAID = 4; // lines of a message

const element = (id) => document.getElementById(id);
const room = {
  about: null, jobs: [], sending: [], current: null, awaited: [], timer: 0, asked: 0, sent: 0, said: [], moved: 0,
};
const viewer = openViewer(say, renew);

async function start() {
  listenForFiles();
  viewer.whenMoved(follow);
  element("task").addEventListener("change", showTask);
  window.addEventListener("hashchange", openNamed);
  try {
    room.about = await api.about();
    showAbout(room.about);
    await refresh();
    await openNamed();
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
  const { model, channels, kind, sample } = task();
  element("model").textContent = `${model.name} ${model.sha256?.slice(0, 8) ?? ""}`;
  element("model").title = `The model and its checksum: ${model.sha256}`;
  element("sample").disabled = !sample;
  element("kinds").textContent = kind === "scan" ? SCANS : `NIfTI files of one case: ${inWords(channels)}`;
}

/** Say something to those who hear the page. */
function say(text) {
  if (element("live").textContent !== text) element("live").textContent = text;
}

/** Say what is wrong, in place of what was said before. */
function complain(text) {
  room.said = text ? [text] : [];
  showMessage();
}

/** Say what is wrong, too: several scans came together. */
function complainToo(text) {
  if (!room.said.includes(text)) room.said.push(text);
  showMessage();
}

function showMessage() {
  const more = room.said.length - MOST_SAID;
  const lines = more > 0 ? [...room.said.slice(0, MOST_SAID), `… and ${more} more`] : room.said;
  const text = lines.join("\n");
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
    room.awaited = [];
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
  room.awaited = [];
  const { jobs, cases } = sorted(entries, wanted.kind === "case");
  if (!jobs.length && !cases.length) complain("There is no file in that.");
  const all = [...jobs.map((job) => [job, false]), ...cases.map((found) => [found, true])];
  for (const [job, isCase] of fitting(all)) {
    if (isCase) await sendCase(job, wanted, all.length > 1);
    else send(job, { task: wanted.name });
  }
}

/** As many of the jobs of a drop as there is room for in the line; of the others it is said. */
function fitting(all) {
  const most = room.about.most_waiting;
  const waiting = room.sending.length + room.jobs.filter(({ state }) => state === "queued").length;
  const free = Math.max(0, most - waiting);
  if (all.length > free) tellLeft(all.slice(free).map(([{ name }]) => name), `up to ${most} can wait in line`);
  return all.slice(0, free);
}

function tellLeft(names, why) {
  const few = names.slice(0, 3).join(", ") + (names.length > 3 ? " …" : "");
  complainToo(`${names.length} left out, for ${why}: ${few}. Drop them again later.`);
}

async function sendCase(found, wanted, isOneOfMany) {
  try {
    const channels = await askChannels(found, wanted, isOneOfMany);
    if (channels) send(found, { task: wanted.name, channels: JSON.stringify(channels) });
  } catch (error) {
    complainToo(error.message);
  }
}

function send({ name, entries }, fields) {
  const size = entries.reduce((sum, { file }) => sum + file.size, 0);
  const limit = room.about?.max_mb ?? Infinity;
  if (size > limit * 2 ** 20) {
    complainToo(`${name} has ${Math.ceil(size / 2 ** 20)} MB; this server takes up to ${limit} MB.`);
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

/**
 * Follow a job that is being made, of the upload `sent`. The result that is there first of those
 * that came together is opened.
 */
async function begin(made, sent) {
  try {
    room.awaited?.push((await made).id);
  } catch (error) {
    if (error.status === 429) leaveOut(sent, error);
    else if (error.name !== "AbortError") complainToo(error.message);
  }
  forget(sent);
  await refresh();
}

/** The line is full: what still waits to be sent would be refused, too. */
function leaveOut(sent, { message }) {
  if (!sent) return complainToo(message);
  const names = room.sending.map(({ name }) => name);
  room.sending = [];
  tellLeft(names, message.split(";")[0]);
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
  const awaited = room.jobs.filter(({ id }) => room.awaited?.includes(id)).toReversed(); // oldest first
  for (const job of awaited.filter((job) => !isActive(job))) {
    room.awaited = room.awaited.filter((id) => id !== job.id);
    if (job.state === "failed") complainToo(job.error);
    else say(`${job.name}: ${job.state}`);
    if (job.state === "done") return choose(job);
  }
  const [next] = awaited.filter(isActive);
  if (!next) return;
  say(`${next.name}: ${next.stage || "waiting"}`);
  if (next.scan) viewer.prepare(next.scan);
}

/** Make a job the current one by its name in the address, so that a reload finds it again. */
function choose(job) {
  room.awaited = null; // what the person looks at is not taken away by a job that ends
  if (job.state !== "done") return;
  if (readAddress(location.hash)?.id === job.id) openNamed();
  else location.hash = writeAddress(job.id);
}

/** Open the job that the address names, of this browser or of whoever sent the link. */
async function openNamed() {
  const place = readAddress(location.hash);
  if (!place) return;
  if (place.id === room.current?.id) return viewer.goTo(place);
  const job = await findJob(place.id);
  if (readAddress(location.hash)?.id !== place.id || room.current?.id === place.id) return; // meanwhile
  if (!job) return;
  if (job.state !== "done") return awaitNamed(job);
  clearTimeout(room.moved); // what was shown of another
  room.current = job;
  show();
  showResult(job, viewer.setRegion);
  viewer.open(job, place);
  lookAtViewer();
}

/** A job by its id; null, and a line that says why, where there is none any more. */
async function findJob(id) {
  const own = room.jobs.find((job) => job.id === id);
  if (own) return own;
  try {
    return await api.job(id);
  } catch (error) {
    const hours = room.about?.keep_hours;
    const expired = `This link has expired: a result is deleted after ${hours} hours, or earlier by its owner.`;
    complain(error.status === 404 ? expired : error.message);
    return null;
  }
}

/** Open a job of a link once it is done; one of this browser's own is told of in the list. */
function awaitNamed(job) {
  if (!isActive(job)) return complain(job.error || `${job.name} was ${job.state}.`);
  say(`${job.name}: ${job.stage || "waiting"}`);
  setTimeout(openNamed, POLL);
}

/** Let the address follow what is shown, so that it leads another person to the same slice. */
function follow({ view, numbers }) {
  clearTimeout(room.moved);
  room.moved = setTimeout(() => {
    const id = room.current?.id;
    if (id && readAddress(location.hash)?.id === id) history.replaceState(null, "", writeAddress(id, view, numbers));
  }, PAUSE);
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
  clearTimeout(room.moved);
  history.replaceState(null, "", location.pathname);
  showResult(null);
  viewer.close();
}

start();
