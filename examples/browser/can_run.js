// Says why the page cannot run, where it cannot: a plain script, as modules are what is missing then.
"use strict";

(function () {
  var why = null;
  if (location.protocol === "file:") {
    why = "Browsers do not let a page that is opened from a folder load a model. Put the folder on any file host, or "
      + "run python -m http.server in it and open http://localhost:8000/.";
  } else if (typeof WebAssembly !== "object" || typeof OffscreenCanvas !== "function" || typeof DecompressionStream !== "function") {
    why = "This browser is too old for this page: Chrome 123, Firefox 121 and Safari 17.5 are not.";
  }
  if (why === null) return;
  var message = document.createElement("p");
  message.className = "message error";
  message.textContent = why;
  document.getElementById("messages").appendChild(message);
  document.getElementById("loading").textContent = "The model is not loaded.";
})();
