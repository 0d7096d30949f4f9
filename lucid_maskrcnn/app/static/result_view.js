// A result on the page: the picture, and the outlines of its objects over it.
import { $, isPhone } from "./dom.js";
import { filter, listClasses } from "./object_filter.js";
import { fillTable } from "./object_table.js";
import { page } from "./page_state.js";
import "./picture_input.js";
import { showAll } from "./zooming.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * Show a result in place of the one before.
 *
 * result: name, width, height, and objects, the best first, each with id (its place from 1 on), name, score, area, box,
 * path, color and class_color. picture: its URL, of an object, which is revoked when the next one is shown.
 */
export function showResult(result, picture) {
  const old = $("pixels").getAttribute("href");
  $("pixels").setAttribute("href", picture);
  if (old) URL.revokeObjectURL(old);
  page.result = result;
  page.hidden.clear();
  page.current = null;
  drawResult();
}

function drawResult() {
  const { width, height, objects } = page.result;
  $("empty").hidden = true;
  $("viewer").hidden = false;
  $("results").hidden = false;
  $("pixels").setAttribute("width", width);
  $("pixels").setAttribute("height", height);
  $("picture").style.aspectRatio = `${width} / ${height}`;
  showAll();
  const masks = document.createDocumentFragment();
  for (const object of [...objects].reverse()) { // the best lies on top, as in a label image
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", object.path);
    path.dataset.id = object.id;
    object.element = path;
    masks.append(path);
  }
  $("masks").replaceChildren(masks);
  const tiles = page.result.tiles ? `, ${page.result.tiles} tiles of ${page.result.tile_size} pixels` : "";
  $("result-about").textContent = `${page.result.name}, ${width} × ${height}, ${page.result.weights}, ${page.result.seconds} s${tiles}`;
  $("none").hidden = objects.length > 0;
  $("area-min").value = $("area-max").value = "";
  listClasses();
  colorMasks();
  filter();
  if (isPhone()) $("stage").scrollIntoView();
}

function colorMasks() {
  const byClass = $("by-class").checked;
  for (const object of page.result.objects) {
    const color = byClass ? object.class_color : object.color;
    object.element.setAttribute("stroke", color);
    object.element.setAttribute("fill", color);
  }
  $("masks").classList.toggle("outlines", !$("fill").checked);
  $("masks").classList.toggle("off", !$("show-masks").checked);
  $("fill").disabled = $("by-class").disabled = !$("show-masks").checked;
}

for (const id of ["show-masks", "fill", "by-class"]) {
  $(id).addEventListener("change", () => { colorMasks(); fillTable(); });
}
