// Which objects are shown: by score, area and class, and those that are switched off one by one.
import { $, objectsOf } from "./dom.js";
import { fillTable } from "./object_table.js";
import { page } from "./page_state.js";
import { point } from "./pointing.js";

let table = null; // that will be filled soon

export function listClasses() {
  const counts = new Map();
  for (const object of page.result.objects) {
    const row = counts.get(object.name) || { count: 0, color: object.class_color };
    row.count += 1;
    counts.set(object.name, row);
  }
  $("classes").hidden = counts.size === 0;
  $("class-list").replaceChildren(...[...counts].map(([name, row]) => {
    const label = document.createElement("label");
    label.className = "check";
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.dataset.name = name;
    box.addEventListener("change", filter);
    const text = document.createElement("span");
    text.textContent = name;
    const count = document.createElement("span");
    count.className = "quiet";
    label.append(box, text, count);
    return label;
  }));
}

export function filter() {
  if (!page.result) return;
  const score = Number($("score").value);
  const least = Number($("area-min").value || 0);
  const most = $("area-max").value === "" ? Infinity : Number($("area-max").value);
  const off = new Set([...$("class-list").querySelectorAll("input:not(:checked)")].map((box) => box.dataset.name));
  const counts = new Map();
  page.shown = [];
  for (const object of page.result.objects) {
    const passes = object.score > score && object.area >= least && object.area <= most;
    if (passes) counts.set(object.name, (counts.get(object.name) || 0) + 1);
    const shown = passes && !off.has(object.name) && !page.hidden.has(object.id);
    object.element.style.display = shown ? "" : "none";
    if (shown) page.shown.push(object);
  }
  for (const box of $("class-list").querySelectorAll("input")) {
    box.parentElement.lastElementChild.textContent = counts.get(box.dataset.name) || 0;
  }
  if (!page.shown.some((object) => object.id === page.current)) point(null);
  sayCounts(score);
  clearTimeout(table);
  if (page.shown.length > 300) table = setTimeout(fillTable, 100); // not at each step of the slider
  else fillTable();
}

function sayCounts(score) {
  const all = page.result.objects.length;
  $("score-value").textContent = score.toFixed(2);
  $("score").setAttribute("aria-valuetext", score.toFixed(2));
  $("count").textContent = page.shown.length === all ? objectsOf(all) : `${page.shown.length} of ${objectsOf(all)}`;
  $("hidden-note").hidden = page.hidden.size === 0;
  $("hidden-count").textContent = `${objectsOf(page.hidden.size)} switched off:`;
  $("save-note").textContent = `Files hold the ${objectsOf(page.shown.length)} shown, numbered as in the table.`;
  $("picture").setAttribute("aria-label", `${page.result.name}, ${objectsOf(page.shown.length)} shown`);
}

export function switchOff(id) {
  const at = page.shown.findIndex((object) => object.id === id);
  page.hidden.add(id);
  filter();
  return page.shown[Math.min(Math.max(at, 0), page.shown.length - 1)]?.id ?? null;
}

for (const id of ["score", "area-min", "area-max"]) $(id).addEventListener("input", filter);
$("show-hidden").addEventListener("click", () => { page.hidden.clear(); filter(); $("score").focus(); });
