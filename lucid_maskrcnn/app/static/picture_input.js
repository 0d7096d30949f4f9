// The pointer and the keys in the picture: objects are pointed at, the part that is seen is moved.
import { $ } from "./dom.js";
import { switchOff } from "./object_filter.js";
import { page } from "./page_state.js";
import { announce, point, step } from "./pointing.js";
import { ZOOM, placeOf, showAll, showPart, zoom } from "./zooming.js";

const picture = $("picture");

function pointAt(event) {
  const frame = $("frame").getBoundingClientRect();
  const id = event.target.dataset?.id;
  point(id ? Number(id) : null, { x: event.clientX - frame.x, y: event.clientY - frame.y });
}

let grip = null; // where the picture is held, while it is moved
picture.addEventListener("pointermove", (event) => {
  if (!page.result) return;
  if (grip) {
    const now = placeOf(event);
    grip.moved = true;
    showPart(page.view.x + grip.x - now.x, page.view.y + grip.y - now.y, page.view.width, page.view.height);
    return;
  }
  pointAt(event);
});
picture.addEventListener("pointerleave", (event) => {
  if (!grip && event.pointerType === "mouse") point(null); // a finger leaves when it is lifted
});
picture.addEventListener("pointerdown", (event) => {
  if (page.result && event.pointerType !== "mouse") pointAt(event);
  if (event.button !== 0 || !picture.classList.contains("zoomed")) return;
  const at = placeOf(event);
  grip = { x: at.x, y: at.y, moved: false };
  picture.setPointerCapture(event.pointerId);
  picture.classList.add("moving");
});
for (const kind of ["pointerup", "pointercancel"]) {
  picture.addEventListener(kind, () => { grip = null; picture.classList.remove("moving"); });
}
picture.addEventListener("wheel", (event) => {
  if (!page.result || !(event.ctrlKey || picture.classList.contains("zoomed") || document.activeElement === picture)) return;
  event.preventDefault();
  zoom(event.deltaY < 0 ? ZOOM : 1 / ZOOM, placeOf(event));
}, { passive: false });
picture.addEventListener("keydown", (event) => {
  if (!page.result || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    ArrowRight: () => step(1), ArrowDown: () => step(1), ArrowLeft: () => step(-1), ArrowUp: () => step(-1),
    h: () => { if (page.current !== null) { point(switchOff(page.current)); if (page.current !== null) announce(); } },
    Escape: () => point(null),
    "+": () => zoom(ZOOM), "=": () => zoom(ZOOM), "-": () => zoom(1 / ZOOM),
    0: showAll,
  };
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
