// Back and reload lead to the page of the key, and a page that the browser caches for "back" loses the secret.
const issued = document.getElementById("issued");
history.replaceState(null, "", issued.dataset.then);
addEventListener("pagehide", () => {
  for (const element of issued.querySelectorAll("[data-secret]")) element.textContent = "no longer shown";
});
