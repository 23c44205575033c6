// Call API: shows another request without leaving the page, fills the token in, and sends.
"use strict";

const MARKS = { token: "YOUR_TOKEN", id: "YOUR_CLIENT_ID", secret: "YOUR_CLIENT_SECRET" };
const LIMIT = 100000; // of an answer that is shown
const PATIENCE = 30000;
const SAFE = /^[A-Za-z0-9_.~-]+$/; // means itself in every language's quotes

const by = (id) => document.getElementById(id);
const request = by("request");
const result = by("result");
const isNew = () => document.querySelector("[data-issued]") !== null;

function encoded(id, secret) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(`${id}:${secret}`)));
}

function credentials() {
  if (isNew()) {
    return { id: by("client-id").textContent, secret: by("secret").textContent, token: by("token").textContent };
  }
  const [id, secret] = [by("own-id")?.value ?? "", by("own-secret")?.value ?? ""];
  return { id, secret, token: id && secret ? encoded(id, secret) : "" };
}

// What came from the server keeps its placeholders in `source`; what is shown has them filled in.
function fill() {
  const given = credentials();
  for (const code of document.querySelectorAll("#snippets code[id]")) {
    code.source ??= code.textContent;
    let text = code.source;
    if (given.token) text = text.replaceAll(MARKS.token, given.token);
    if (SAFE.test(given.id) && SAFE.test(given.secret)) {
      text = text.replaceAll(MARKS.id, given.id).replaceAll(MARKS.secret, given.secret);
    }
    if (text !== code.textContent) code.textContent = text;
    if (isNew()) code.dataset.shown = "";
  }
  const hint = by("placeholders");
  if (hint) hint.hidden = given.token !== "";
}

function problem(text) {
  said.textContent = text;
  const shown = by("call-problem") ?? result;
  const line = document.createElement("p");
  line.className = "notice bad";
  line.textContent = text;
  shown.replaceChildren(line);
}

let asked = 0;

async function ask(address, options, swap, again) {
  const number = ++asked;
  try {
    const answer = await fetch(address, { ...options, headers: { Accept: "text/html" }, redirect: "error" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (number !== asked) return;
    // Whatever the answer, its form is good for another hour.
    const token = page.querySelector("#request input[name=page_token]");
    if (token) request.elements.page_token.value = token.value;
    if (answer.status === 403 && token && again) return again();
    if (!answer.ok) {
      const alert = page.querySelector("[role=alert] p, main p");
      problem(alert ? alert.textContent : `The dashboard answered ${answer.status}.`);
      return;
    }
    by("call-problem")?.replaceChildren();
    swap(page);
  } catch {
    if (number === asked) problem("The dashboard cannot be reached: is the app still running?");
  }
}

function swap(page, id) {
  const open = [...document.querySelectorAll(`#${id} details[open] code`)].map((code) => code.id);
  const fresh = document.importNode(page.getElementById(id), true);
  for (const code of fresh.querySelectorAll("details code[id]")) {
    code.closest("details").open = open.includes(code.id);
  }
  by(id).replaceWith(fresh);
  show(fresh);
  return fresh;
}

function bodies() {
  const none = ["GET", "HEAD"].includes(by("method").value);
  for (const field of request.querySelectorAll("[data-body]")) field.hidden = none;
}

by("endpoint")?.addEventListener("change", () => {
  const pick = by("pick");
  const address = `${pick.action}?${new URLSearchParams(new FormData(pick))}`;
  ask(address, {}, (page) => {
    const from = page.getElementById("request");
    for (const field of request.elements) {
      const other = field.name && from.elements[field.name];
      if (other) field.value = other.value;
    }
    by("body").rows = from.elements.body.rows;
    swap(page, "snippets");
    bodies();
    fill();
  });
});
by("pick")?.addEventListener("submit", (event) => event.preventDefault());

let waiting = 0;
function update(retries = 1) {
  if (!request.checkValidity()) return;
  const options = { method: "POST", body: new URLSearchParams(new FormData(request)) };
  const show = (page) => {
    swap(page, "snippets");
    fill();
  };
  ask(request.action, options, show, retries > 0 ? () => update(retries - 1) : undefined);
}
request.addEventListener("input", () => {
  bodies();
  clearTimeout(waiting);
  waiting = setTimeout(() => update(), 400);
});
request.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(waiting);
  update();
});

by("own-id")?.addEventListener("input", fill);
by("own-secret")?.addEventListener("input", fill);

function put(element, name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  element.append(made);
  return made;
}

function pretty(text, kind) {
  if (!/[/+]json\b/.test(kind)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

async function send() {
  const given = credentials();
  const how = document.querySelector("input[name=as]:checked").value;
  const headers = new Headers();
  if (how !== "none") {
    if (!given.id || !given.secret) {
      by(given.id ? "own-secret" : "own-id").focus();
      problem("Give the client id and the secret of a key, or choose to send without one.");
      return;
    }
    headers.set("Authorization", `Basic ${how === "wrong" ? encoded(given.id, "a-wrong-secret") : given.token}`);
  }
  const method = by("method").value;
  const bare = ["GET", "HEAD"].includes(method);
  const body = bare || by("body").value === "" ? undefined : by("body").value;
  let address;
  try {
    if (body !== undefined) headers.set("Content-Type", by("content_type").value);
    address = new URL(by("path").value, location.origin);
  } catch {
    problem("No request has such a path or content type: try /items and application/json.");
    return;
  }
  if (address.origin !== location.origin) {
    problem("That path leads to another host: give one of this host.");
    return;
  }
  by("call-problem")?.replaceChildren();
  by("send").disabled = true;
  result.replaceChildren();
  put(result, "p", "Waiting for the answer ...").className = "quiet";
  const begun = performance.now();
  try {
    // "omit": the login of this page is not what is being tried.
    const answer = await fetch(address, {
      method,
      headers,
      body,
      credentials: "omit",
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE),
    });
    const text = await answer.text();
    const took = Math.round(performance.now() - begun);
    const kind = answer.headers.get("content-type") ?? "";
    result.replaceChildren();
    const line = put(result, "p", "");
    line.className = "status";
    const mark = put(line, "strong", `${answer.status} ${answer.statusText}`.trim());
    mark.className = answer.ok ? "good" : "bad";
    mark.dataset.status = String(answer.status);
    put(line, "span", `${took} ms`);
    put(line, "span", kind);
    if (answer.status === 401) {
      put(result, "p", "401: the credentials were not accepted. All wrong ones look the same.").className = "hint";
    }
    const shown = pretty(text, kind);
    const box = put(result, "pre", "");
    put(box, "code", shown.length > LIMIT ? `${shown.slice(0, LIMIT)}\n... (${shown.length} characters)` : shown || "(no body)");
  } catch (error) {
    result.replaceChildren();
    const late = error.name === "TimeoutError";
    const text = late ? `No answer within ${PATIENCE / 1000} s.` : "No answer: the connection broke, or the app cannot be reached.";
    put(result, "p", text).className = "error";
  } finally {
    by("send").disabled = false;
  }
}
by("send").addEventListener("click", send);

bodies();
fill();
