// Light or dark: as the system has it, or as it was chosen.
import { $ } from "./dom.js";

$("theme").addEventListener("change", () => {
  document.documentElement.dataset.theme = $("theme").value;
  try { localStorage.setItem("theme", $("theme").value); } catch { /* private windows keep nothing */ }
});
try {
  $("theme").value = localStorage.getItem("theme") || "auto";
} catch { /* as above */ }
document.documentElement.dataset.theme = $("theme").value;

