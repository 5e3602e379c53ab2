// The server's JSON API. Every refusal becomes an Error whose message is the server's own line.

export const UNREACHED = "The server does not answer; is app.py still running?";
const BROKEN = "The upload broke off: the server stopped, or refused it.";

export const about = () => ask("/api/about");
export const jobs = async () => listed(await ask("/api/jobs"));
export const remove = (id) => ask(`/api/jobs/${encodeURIComponent(id)}`, { method: "DELETE" });

/** Start the built-in sample: the new job. */
export function sample() {
  const body = new FormData();
  body.append("sample", "1");
  return ask("/api/jobs", { method: "POST", body });
}

/**
 * Send the files of one job; `entries` are {file, path}. fetch() tells nothing of an upload's
 * progress, so this is XMLHttpRequest. `onShare` gets 0..1. Returns {done, stop}: a promise of the
 * new job, and a function that breaks off.
 */
export function upload(entries, channels, onShare) {
  const request = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => event.lengthComputable && onShare(event.loaded / event.total);
    request.onload = () => settle(request.status, request.responseText, resolve, reject);
    request.onerror = () => reject(new Error(BROKEN));
    request.onabort = () => reject(new DOMException("The upload was cancelled.", "AbortError"));
  });
  request.open("POST", "/api/jobs");
  request.send(form(entries, channels));
  return { done, stop: () => request.abort() };
}

function form(entries, channels) {
  const body = new FormData();
  if (channels) body.append("channels", JSON.stringify(channels));
  for (const { file, path } of entries) body.append("files", file, path);
  return body;
}

async function ask(url, options) {
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
  else reject(new Error(content?.error ?? `The server answered ${status}.`));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const listed = (content) => (Array.isArray(content) ? content : content.jobs);
