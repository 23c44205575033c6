// Local times, copy buttons, and forms that are submitted only once. Every page works without this script.
"use strict";

const announcements = document.getElementById("announcements");

function enhance(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const date = new Date(time.dateTime);
    if (time.dataset.local || Number.isNaN(date.getTime())) continue;
    time.title ||= time.textContent;
    time.dataset.local = "yes";
    const timeStyle = time.classList.contains("day") ? undefined : "short";
    time.textContent = date.toLocaleString(undefined, { dateStyle: "medium", timeStyle });
  }
  for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = false;
  for (const element of root.querySelectorAll("[data-script]")) element.hidden = false;
  for (const element of root.querySelectorAll("[data-plain]")) element.hidden = true;
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  let copied = true;
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // There is no clipboard over plain HTTP: select the text, and try the old command.
    getSelection().selectAllChildren(source);
    copied = document.execCommand("copy");
  }
  button.textContent = copied ? "Copied" : "Press Ctrl+C";
  announcements.textContent = copied ? button.getAttribute("aria-label").replace("Copy", "Copied") : "Press Ctrl+C to copy";
  setTimeout(() => {
    button.textContent = "Copy";
    announcements.textContent = "";
  }, 2000);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (button) copy(button);
});

// The server refuses a second submission, and its refusal would replace the page with the secret. It also refuses
// a form that is too large, and the input would be lost.
const MAX_FORM = 256 * 1024; // bytes; as on the server
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", (event) => {
    const sent = new URLSearchParams(new FormData(form)).toString().replace(/(%0D)?%0A/g, "%0D%0A"); // as browsers do
    const isTooLarge = sent.length > MAX_FORM;
    if (isTooLarge || form.dataset.submitted) event.preventDefault();
    if (isTooLarge) alert("Nothing was changed: the form is larger than 256 KiB.");
    else form.dataset.submitted = "yes";
  });
}
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-once]")) delete form.dataset.submitted;
});

for (const field of document.querySelectorAll("[data-only]")) {
  const [name, value] = field.dataset.only.split("=");
  const select = document.getElementById(name);
  const update = () => (field.hidden = select.value !== value);
  select.addEventListener("change", update);
  update();
}

// The page that shows a secret is the response to a form. Its history entry becomes the page of the key, so
// that back and reload do not submit the form again. Pages that the browser caches for "back" lose the secret.
const issued = document.querySelector("[data-issued]");
if (issued) {
  history.replaceState(null, "", issued.dataset.then);
  addEventListener("pagehide", () => {
    for (const element of document.querySelectorAll("[data-shown]")) element.textContent = "no longer shown";
    delete issued.dataset.issued;
  });
}

enhance(document);
