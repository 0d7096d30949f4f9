// Pointing at an object: it is marked in the picture and in the table, and a tip says what it is.
import { $ } from "./dom.js";
import { markRow } from "./object_table.js";
import { page } from "./page_state.js";
import { bringIntoView } from "./zooming.js";

export function point(id, place = null) {
  if (page.current !== id) {
    $("masks").querySelector("path.on")?.classList.remove("on");
    page.current = id;
    markRow();
    if (id !== null) page.result.objects[id - 1].element.classList.add("on");
  }
  const tip = $("tip");
  tip.hidden = id === null;
  if (id === null) return;
  const object = page.result.objects[id - 1];
  if (tip.dataset.id !== String(id)) {
    const name = document.createElement("strong");
    name.textContent = `${object.name} ${object.id}`;
    const score = document.createElement("span");
    score.textContent = `score ${object.score.toFixed(3)}`;
    const area = document.createElement("span");
    area.textContent = `area ${object.area} pixels`;
    tip.replaceChildren(name, score, area);
    tip.dataset.id = id;
  }
  placeTip(place || middleOf(object));
}

function middleOf(object) {
  const [x1, y1, x2, y2] = object.box;
  const matrix = $("picture").getScreenCTM();
  const frame = $("frame").getBoundingClientRect();
  const at = new DOMPoint(x2, (y1 + y2) / 2).matrixTransform(matrix);
  return { x: at.x - frame.x, y: at.y - frame.y };
}

function placeTip({ x, y }) {
  const tip = $("tip"), frame = $("frame");
  const right = x + 14 + tip.offsetWidth <= frame.clientWidth ? x + 14 : x - 14 - tip.offsetWidth;
  tip.style.left = `${Math.max(4, Math.min(right, frame.clientWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, frame.clientHeight - tip.offsetHeight - 4))}px`;
}

export function announce() {
  const object = page.result.objects[page.current - 1];
  $("current").textContent = `${object.name} ${object.id}, score ${object.score.toFixed(2)}, area ${object.area} pixels`;
}

export function step(by) {
  if (page.shown.length === 0) return;
  const at = page.shown.findIndex((object) => object.id === page.current);
  const next = at < 0 ? (by > 0 ? 0 : page.shown.length - 1) : (at + by + page.shown.length) % page.shown.length;
  const object = page.shown[next];
  bringIntoView(object);
  point(object.id);
  announce();
}

window.addEventListener("resize", () => point(null));
