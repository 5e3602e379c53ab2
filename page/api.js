// The server's JSON API. Every refusal becomes an Error whose message is the server's own line.
// Addresses are relative: the page may lie below a path, such as /brain/.

export const UNREACHED = "The server does not answer; is app.py still running?";
const BROKEN = "The upload broke off: the server stopped, or refused it.";

export const about = () => ask("api/about");
export const words = () => ask("api/words");
export const job = (id) => ask(`api/jobs/${encodeURIComponent(id)}`);
export const jobs = async () => listed(await ask("api/jobs"));
export const remove = (id) => ask(`api/jobs/${encodeURIComponent(id)}`, { method: "DELETE" });

/** Which channel of a task each file name says it is: {name: channel} of those that say so. */
export async function channels(task, names) {
  const query = new URLSearchParams([["task", task], ...names.map((name) => ["name", name])]);
  return (await ask(`api/channels?${query}`)).channels;
}

/** Start the built-in sample of a task: the new job. */
export const sample = (task) => ask("api/jobs", { method: "POST", body: form([], { task, sample: "1" }) });

/**
 * Send the files of one job, {file, path}, and the other `fields` of the form. fetch() tells nothing of an upload's
 * progress, so this is XMLHttpRequest. `onShare` gets 0..1. Returns {done, stop}: a promise of the
 * new job, and a function that breaks off.
 */
export function upload(entries, fields, onShare) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => event.lengthComputable && onShare(event.loaded / event.total);
    request.onload = () => settle(request.status, request.responseText, resolve, reject);
    request.onerror = () => reject(new Error(BROKEN));
    request.onabort = () => reject(new DOMException("The upload was cancelled.", "AbortError"));
  });
  request.open("POST", "api/jobs");
  request.send(form(entries, fields));
  return { done, stop: () => request.abort() };
}

function form(entries, fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  for (const { file, path } of entries) body.append("files", file, path);
  return body;
}

/** The JSON that the server answers to a request, as fetch() takes it. */
export async function ask(url, options) {
  let answer;
  try {
    answer = await fetch(url, options);
  } catch {
    throw new Error(UNREACHED);
  }
  const text = await answer.text();
  return new Promise((resolve, reject) => settle(answer.status, text, resolve, reject));
}

function settle(status, text, resolve, reject) {
  const content = parsed(text);
  if (status >= 200 && status < 300) resolve(content);
  else reject(Object.assign(new Error(content?.error ?? `The server answered ${status}.`), { status }));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const listed = (content) => (Array.isArray(content) ? content : content.jobs);
