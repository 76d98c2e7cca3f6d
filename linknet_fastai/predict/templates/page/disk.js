// No module, because browsers load modules only from a server.
if (location.protocol === "file:") {
  document.documentElement.className = "disk";
  document.getElementById("empty").textContent =
    "Browsers let this page load its model only from a server: run python -m http.server in this folder, and open http://localhost:8000";
}
