// The table of the objects shown.
import { $ } from "./dom.js";
import { switchOff } from "./object_filter.js";
import { page } from "./page_state.js";
import { announce, point } from "./pointing.js";
import { bringIntoView } from "./zooming.js";

const LONGEST_TABLE = 1000; // rows; more would make the page slow

export function fillTable() {
  const rows = page.shown.slice(0, LONGEST_TABLE).map((object) => {
    const row = document.createElement("tr");
    row.dataset.id = object.id;
    const pick = document.createElement("button");
    pick.type = "button";
    pick.className = "pick";
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = $("by-class").checked ? object.class_color : object.color;
    pick.append(swatch, String(object.id));
    pick.setAttribute("aria-label", `Show object ${object.id}`);
    const hide = document.createElement("button");
    hide.type = "button";
    hide.className = "hide";
    hide.textContent = "×";
    hide.setAttribute("aria-label", `Switch off object ${object.id}`);
    for (const content of [pick, object.name, object.score.toFixed(2), object.area, hide]) {
      const cell = document.createElement("td");
      cell.append(content);
      row.append(cell);
    }
    return row;
  });
  $("rows").replaceChildren(...rows);
  const more = page.shown.length - rows.length;
  $("table-note").textContent = more > 0 ? `… ${more} more: the CSV file has all.` : "";
  markRow();
}

export function markRow() {
  $("rows").querySelector("tr.on")?.classList.remove("on");
  if (page.current !== null) $("rows").querySelector(`tr[data-id="${page.current}"]`)?.classList.add("on");
}

$("rows").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (!row) return;
  const id = Number(row.dataset.id);
  if (event.target.closest(".hide")) {
    const next = switchOff(id);
    if (next !== null) $("rows").querySelector(`tr[data-id="${next}"] .hide`)?.focus();
    return;
  }
  bringIntoView(page.result.objects[id - 1]);
  point(id);
  announce();
});
$("rows").addEventListener("mouseover", (event) => {
  const row = event.target.closest("tr");
  if (row) point(Number(row.dataset.id));
});
$("rows").addEventListener("focusin", (event) => {
  const row = event.target.closest("tr");
  if (row) point(Number(row.dataset.id));
});
$("table").addEventListener("mouseleave", () => point(null));
