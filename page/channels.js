// Several MR scans of one case: which is which, as read from their names, for correction.

import * as api from "./api.js";

const element = (id) => document.getElementById(id);

/**
 * Ask which entry of `found` is which channel of a task: {path: channel}, null when discarded. Of
 * one case among many nothing is asked where the names say it all.
 */
export async function askChannels({ name: title, entries }, { name, channels }, isOneOfMany = false) {
  const form = element("channels");
  const known = await api.channels(name, entries.map(({ path }) => path));
  if (isOneOfMany && !missing(Object.values(known), channels)) return known;
  element("case-name").textContent = isOneOfMany ? title : "One case of several scans";
  element("channel-rows").replaceChildren(...entries.map(({ path }) => row(path, channels, known[path])));
  form.hidden = false;
  form.querySelector("select").focus();
  return new Promise((resolve) => {
    const close = (answer) => {
      form.hidden = true;
      form.onsubmit = form.onreset = null;
      resolve(answer);
    };
    form.onreset = () => close(null);
    form.onsubmit = (event) => {
      event.preventDefault();
      if (complete(form, channels)) close(answers(form));
    };
  });
}

function row(path, channels, known = "") {
  const label = document.createElement("label");
  const text = document.createElement("span"), end = document.createElement("bdi");
  end.textContent = text.title = path.split("/").pop();
  text.append(end);
  const select = document.createElement("select");
  select.name = path;
  select.append(new Option("not used", ""), ...channels.map((c) => new Option(c.toUpperCase(), c)));
  select.value = known;
  label.append(text, select);
  return label;
}

function answers(form) {
  const chosen = [...form.querySelectorAll("select")].filter((select) => select.value);
  return Object.fromEntries(chosen.map((select) => [select.name, select.value]));
}

/** Whether every channel is there once; else the first list says what is wrong. */
function complete(form, channels) {
  const wrong = missing(Object.values(answers(form)), channels);
  const first = form.querySelector("select");
  first.setCustomValidity(wrong ? `${wrong.toUpperCase()} must be one file` : "");
  first.onchange = form.onchange = () => first.setCustomValidity("");
  return form.reportValidity();
}

/** The first channel that is not given exactly once. */
const missing = (given, channels) => channels.find((c) => given.filter((other) => other === c).length !== 1);
