// Several MR scans of one case: which is which, as read from their names, for correction.

import { channelOf } from "./files.js";

const element = (id) => document.getElementById(id);

/** Ask which entry of `found` is which channel: {path: channel}, or null when discarded. */
export function askChannels({ entries }, channels) {
  const form = element("channels");
  element("channel-rows").replaceChildren(...entries.map((entry) => row(entry, channels)));
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

function row({ path }, channels) {
  const label = document.createElement("label");
  const text = document.createElement("span"), end = document.createElement("bdi");
  end.textContent = text.title = path.split("/").pop();
  text.append(end);
  const select = document.createElement("select");
  select.name = path;
  select.append(new Option("not used", ""), ...channels.map((c) => new Option(c.toUpperCase(), c)));
  select.value = channels.includes(channelOf(path)) ? channelOf(path) : "";
  label.append(text, select);
  return label;
}

function answers(form) {
  const chosen = [...form.querySelectorAll("select")].filter((select) => select.value);
  return Object.fromEntries(chosen.map((select) => [select.name, select.value]));
}

/** Whether every channel is there once; else the first list says what is wrong. */
function complete(form, channels) {
  const given = Object.values(answers(form));
  const wrong = channels.find((c) => given.filter((other) => other === c).length !== 1);
  const first = form.querySelector("select");
  first.setCustomValidity(wrong ? `${wrong.toUpperCase()} must be one file` : "");
  first.onchange = form.onchange = () => first.setCustomValidity("");
  return form.reportValidity();
}
