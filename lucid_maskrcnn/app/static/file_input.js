// Files that are chosen, dropped or pasted.
import { $ } from "./dom.js";
import { say } from "./messages.js";

/** Have `take` called with each file that people give: one at a time. */
export function onFile(take) {
  $("file").addEventListener("change", () => {
    if ($("file").files.length) take($("file").files[0]);
    $("file").value = ""; // the same file can be chosen again
  });

  let depth = 0; // dragging into a child leaves its parent
  window.addEventListener("dragenter", (event) => { event.preventDefault(); depth += 1; $("dropping").hidden = false; });
  window.addEventListener("dragleave", () => { depth -= 1; if (depth <= 0) { depth = 0; $("dropping").hidden = true; } });
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    $("dropping").hidden = true;
    const files = event.dataTransfer.files;
    if (files.length) take(files[0]);
    else say("What was dropped is no file: save the image first, or copy and paste it.", "warning");
    if (files.length > 1) setTimeout(() => say(`One image at a time: ${files[0].name} is taken.`, "warning"));
  });
  window.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) take(file);
  });
}
