// Times in the reader's zone, copy buttons, forms that are sent once. Every page works without it.
"use strict";

const said = document.getElementById("said");

function show(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (time.dataset.told || Number.isNaN(moment.getTime())) continue;
    time.title ||= time.textContent;
    time.dataset.told = "yes";
    const day = time.classList.contains("day");
    time.textContent = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: day ? undefined : "short" });
  }
  for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = false;
  for (const each of root.querySelectorAll("[data-script]")) each.hidden = false;
  for (const each of root.querySelectorAll("[data-plain]")) each.hidden = true;
}

async function copy(button) {
  const shown = document.getElementById(button.dataset.copy);
  const text = shown.textContent;
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // No clipboard over plain http: select it, and leave the rest to an old command or to the reader.
    getSelection().selectAllChildren(shown);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Press Ctrl+C";
  said.textContent = done ? `${button.getAttribute("aria-label").replace("Copy", "Copied")}` : "Press Ctrl+C to copy";
  setTimeout(() => {
    button.textContent = "Copy";
    said.textContent = "";
  }, 2000);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (button) copy(button);
});

// A second click would be refused, and the answer to the first, with its secret, lost.
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-once]")) delete form.dataset.sent;
});

for (const field of document.querySelectorAll("[data-only]")) {
  const [name, value] = field.dataset.only.split("=");
  const select = document.getElementById(name);
  const turn = () => (field.hidden = select.value !== value);
  select.addEventListener("change", turn);
  turn();
}

// The page that shows a secret is the answer to a form. Its place in the history is the key's own page, so that
// neither back nor reload asks to send the form again; and a page that a browser keeps for "back" keeps no secret.
const issued = document.querySelector("[data-issued]");
if (issued) {
  history.replaceState(null, "", issued.dataset.then);
  addEventListener("pagehide", () => {
    for (const each of document.querySelectorAll("[data-shown]")) each.textContent = "was shown once";
    delete issued.dataset.issued;
  });
}

show(document);
