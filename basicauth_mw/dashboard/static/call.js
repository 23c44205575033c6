// Call API: updates the page without reloading it, fills credentials into code samples, and sends requests.
"use strict";

const PLACEHOLDERS = { token: "YOUR_TOKEN", id: "YOUR_CLIENT_ID", secret: "YOUR_CLIENT_SECRET" };
const MAX_SHOWN = 100000; // characters of a response
const TIMEOUT_MS = 30000;
const NEEDS_NO_QUOTING = /^[A-Za-z0-9_.~-]+$/; // in any language

const byId = (id) => document.getElementById(id);
const request = byId("request");
const result = byId("result");
const isNew = () => document.querySelector("[data-issued]") !== null;

function encode(id, secret) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(`${id}:${secret}`)));
}

function credentials() {
  if (isNew()) {
    return { id: byId("client-id").textContent, secret: byId("secret").textContent, token: byId("token").textContent };
  }
  const [id, secret] = [byId("own-id")?.value ?? "", byId("own-secret")?.value ?? ""];
  return { id, secret, token: id && secret ? encode(id, secret) : "" };
}

// `source` keeps the text from the server, with its placeholders; the page shows it with credentials.
function fillIn() {
  const { id, secret, token } = credentials();
  for (const code of document.querySelectorAll("#snippets code[id]")) {
    code.source ??= code.textContent;
    let text = code.source;
    if (token) text = text.replaceAll(PLACEHOLDERS.token, token);
    if (NEEDS_NO_QUOTING.test(id) && NEEDS_NO_QUOTING.test(secret)) {
      text = text.replaceAll(PLACEHOLDERS.id, id).replaceAll(PLACEHOLDERS.secret, secret);
    }
    if (text !== code.textContent) code.textContent = text;
    if (isNew()) code.dataset.shown = "";
  }
  const hint = byId("placeholders");
  if (hint) hint.hidden = token !== "";
}

function showProblem(text) {
  announcements.textContent = text;
  const line = document.createElement("p");
  line.className = "notice bad";
  line.textContent = text;
  (byId("call-problem") ?? result).replaceChildren(line);
}

let lastLoad = 0;

async function load(url, options, onPage, onExpired) {
  const number = ++lastLoad;
  try {
    const response = await fetch(url, { ...options, headers: { Accept: "text/html" }, redirect: "error" });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (number !== lastLoad) return;
    // Every response has a form with a new CSRF token.
    const token = page.querySelector("#request input[name=csrf_token]");
    if (token) request.elements.csrf_token.value = token.value;
    if (response.status === 403 && token && onExpired) return onExpired();
    if (!response.ok) {
      const alert = page.querySelector("[role=alert] p, main p");
      showProblem(alert ? alert.textContent : `The dashboard responded with ${response.status}.`);
      return;
    }
    byId("call-problem")?.replaceChildren();
    onPage(page);
  } catch {
    if (number === lastLoad) showProblem("The dashboard cannot be reached. Is the app still running?");
  }
}

function replaceSnippets(page) {
  const open = [...document.querySelectorAll("#snippets details[open] code")].map((code) => code.id);
  const snippets = document.importNode(page.getElementById("snippets"), true);
  for (const code of snippets.querySelectorAll("details code[id]")) {
    code.closest("details").open = open.includes(code.id);
  }
  byId("snippets").replaceWith(snippets);
  enhance(snippets);
  fillIn();
}

function showBodyFields() {
  const hidden = ["GET", "HEAD"].includes(byId("method").value);
  for (const field of request.querySelectorAll("[data-body]")) field.hidden = hidden;
}

byId("endpoint")?.addEventListener("change", () => {
  const pick = byId("pick");
  load(`${pick.action}?${new URLSearchParams(new FormData(pick))}`, {}, (page) => {
    const loaded = page.getElementById("request");
    for (const field of request.elements) {
      const other = field.name && loaded.elements[field.name];
      if (other) field.value = other.value;
    }
    byId("body").rows = loaded.elements.body.rows;
    replaceSnippets(page);
    showBodyFields();
  });
});
byId("pick")?.addEventListener("submit", (event) => event.preventDefault());

let timer = 0;
function update(retries = 1) {
  if (!request.checkValidity()) return;
  const options = { method: "POST", body: new URLSearchParams(new FormData(request)) };
  load(request.action, options, replaceSnippets, retries > 0 ? () => update(retries - 1) : undefined);
}
request.addEventListener("input", () => {
  showBodyFields();
  clearTimeout(timer);
  timer = setTimeout(() => update(), 400);
});
request.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  update();
});

byId("own-id")?.addEventListener("input", fillIn);
byId("own-secret")?.addEventListener("input", fillIn);

function append(parent, name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  parent.append(element);
  return element;
}

function format(text, contentType) {
  if (!/[/+]json\b/.test(contentType)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

async function send() {
  const { id, secret, token } = credentials();
  const choice = document.querySelector("input[name=as]:checked").value;
  const headers = new Headers();
  if (choice !== "none") {
    if (!id || !secret) {
      byId(id ? "own-secret" : "own-id").focus();
      showProblem("Enter the client ID and the secret of a key, or choose to send the request without a key.");
      return;
    }
    const { header, prefix } = document.querySelector("[data-call]").dataset;
    headers.set(header, prefix + (choice === "wrong" ? encode(id, "a-wrong-secret") : token));
  }
  const method = byId("method").value;
  const hasBody = !["GET", "HEAD"].includes(method) && byId("body").value !== "";
  const body = hasBody ? byId("body").value : undefined;
  let url;
  try {
    if (hasBody) headers.set("Content-Type", byId("content_type").value);
    url = new URL(byId("path").value, location.origin);
  } catch {
    showProblem("The path or the content type is not valid. Try /items and application/json.");
    return;
  }
  if (url.origin !== location.origin) {
    showProblem("The path leads to another host. Enter a path on this host.");
    return;
  }
  byId("call-problem")?.replaceChildren();
  byId("send").disabled = true;
  result.replaceChildren();
  append(result, "p", "Waiting for the response ...").className = "quiet";
  const started = performance.now();
  try {
    // "omit": do not send the credentials that the reader signed in with.
    const response = await fetch(url, {
      method,
      headers,
      body,
      credentials: "omit",
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const text = await response.text();
    const duration = Math.round(performance.now() - started);
    const contentType = response.headers.get("content-type") ?? "";
    result.replaceChildren();
    const line = append(result, "p", "");
    line.className = "status";
    const status = append(line, "strong", `${response.status} ${response.statusText}`.trim());
    status.className = response.ok ? "good" : "bad";
    status.dataset.status = String(response.status);
    append(line, "span", `${duration} ms`);
    append(line, "span", contentType);
    if (response.status === 401) {
      append(result, "p", "401: the credentials were not accepted. The response does not say why.").className = "hint";
    }
    const shown = format(text, contentType);
    const truncated = `${shown.slice(0, MAX_SHOWN)}\n... (${shown.length} characters)`;
    append(append(result, "pre", ""), "code", shown.length > MAX_SHOWN ? truncated : shown || "(no body)");
  } catch (error) {
    result.replaceChildren();
    const timedOut = error.name === "TimeoutError";
    const text = timedOut
      ? `No response within ${TIMEOUT_MS / 1000} s.`
      : "No response: the connection was closed, or the app cannot be reached.";
    append(result, "p", text).className = "error";
  } finally {
    byId("send").disabled = false;
  }
}
byId("send").addEventListener("click", send);

showBodyFields();
fillIn();
