// The part of the image that is seen, and how it is moved.
import { $ } from "./dom.js";
import { page } from "./page_state.js";
import { point } from "./pointing.js";

export const ZOOM = 1.35;

export function showPart(x, y, width, height) {
  const all = page.result;
  width = Math.min(width, all.width);
  height = Math.min(height, all.height);
  x = Math.min(Math.max(x, 0), all.width - width);
  y = Math.min(Math.max(y, 0), all.height - height);
  page.view = { x, y, width, height };
  $("picture").setAttribute("viewBox", `${x} ${y} ${width} ${height}`);
  const zoomed = width < all.width;
  $("picture").classList.toggle("zoomed", zoomed);
  $("zoom-fit").disabled = $("zoom-out").disabled = !zoomed;
  $("zoom-in").disabled = width <= 8;
  // Pixels are seen as such once they are large.
  const scale = $("picture").clientWidth / width;
  $("pixels").style.imageRendering = scale >= 6 ? "pixelated" : "auto";
}

export function zoom(factor, place = null) {
  const { x, y, width, height } = page.view;
  const at = place || { x: x + width / 2, y: y + height / 2 };
  const smallest = 8 / page.result.width;
  const size = Math.max(width / factor, page.result.width * smallest);
  const scale = size / width;
  showPart(at.x - (at.x - x) * scale, at.y - (at.y - y) * scale, size, height * scale);
  point(null);
}

export function placeOf(event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform($("picture").getScreenCTM().inverse());
}

export function bringIntoView(object) {
  const [x1, y1, x2, y2] = object.box;
  const { x, y, width, height } = page.view;
  if (x1 >= x && y1 >= y && x2 <= x + width && y2 <= y + height) return;
  showPart((x1 + x2 - width) / 2, (y1 + y2 - height) / 2, width, height);
}

export const showAll = () => showPart(0, 0, page.result.width, page.result.height);

$("zoom-in").addEventListener("click", () => zoom(ZOOM));
$("zoom-out").addEventListener("click", () => zoom(1 / ZOOM));
$("zoom-fit").addEventListener("click", showAll);
