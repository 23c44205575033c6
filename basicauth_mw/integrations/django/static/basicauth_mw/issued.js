// Back and reload lead to the page of the key, and a page that the browser caches for "back" loses the secret.
const issued = document.getElementById("issued");
const secrets = issued.querySelectorAll("[data-secret]");
history.replaceState(null, "", issued.dataset.then);
addEventListener("pagehide", () => secrets.forEach((element) => (element.textContent = "no longer shown")));
secrets.forEach((element) => (element.style.overflowWrap = "anywhere")); // on a phone
