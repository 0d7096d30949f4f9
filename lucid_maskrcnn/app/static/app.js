// The page: an image is sent, objects come back, and what is shown is chosen here, without asking the server again.
"use strict";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const LONGEST_TABLE = 1000; // rows; more would make the page slow
const ZOOM = 1.35;

const page = {
  session: null, // key, and what the server says about itself
  image: null, // what was sent
  running: null, // key of the prediction that is waited for
  result: null, // its objects
  key: null, // of the result
  shown: [], // objects that pass the filter
  hidden: new Set(), // numbers of objects that were switched off one by one
  current: null, // number of the object that is pointed at
  view: null, // part of the image that is seen: x, y, width, height
  table: null, // the table that will be filled soon
  turn: 0, // counts images and predictions: an answer to an older one is dropped
};

// ------------------------------------------------------------------ the server

class ServerError extends Error {}

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (page.session) headers["Lucid-Session"] = page.session.session;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer: was it ended? Start it again, and load this page anew.");
  }
  if (response.ok) return response;
  let sentence = `The server answered ${response.status}.`;
  try {
    sentence = (await response.json()).error || sentence;
  } catch { /* no JSON: the status has to do */ }
  throw new ServerError(sentence);
}

const send = (path, content) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });

// ------------------------------------------------------------------ messages

function say(text, kind = "error") {
  const message = document.createElement("div");
  message.className = `message ${kind}`;
  const sentence = document.createElement("p");
  sentence.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "×";
  close.setAttribute("aria-label", "Close this message");
  close.addEventListener("click", () => message.remove());
  message.append(sentence, close);
  $("messages").append(message);
}

const clearMessages = () => $("messages").replaceChildren();

function fail(error) {
  if (!(error instanceof ServerError)) console.error(error);
  say(error instanceof ServerError ? error.message : "This page made a mistake: load it anew.");
}

function progress(text, value) {
  $("progress").hidden = text === null;
  $("empty").hidden = text !== null || page.result !== null;
  if (text === null) return;
  if ($("progress-text").textContent !== text) $("progress-text").textContent = text;
  if (value === undefined) $("progress-bar").removeAttribute("value");
  else $("progress-bar").value = value;
}

// ------------------------------------------------------------------ the beginning

async function begin() {
  page.session = await (await ask("api/sessions", { method: "POST" })).json();
  $("version").textContent = page.session.version;
  const megabytes = page.session.max_upload / 1e6;
  $("bounds").textContent = `up to ${round(megabytes)} MB, ${round(page.session.max_pixels / 1e6)} million pixels`;
  const menu = $("weights");
  menu.replaceChildren();
  for (const row of page.session.weights) {
    const option = new Option(row.download ? `${row.title} (to download)` : row.title, row.key);
    option.dataset.note = row.note;
    menu.append(option);
  }
  menu.value = page.session.default_weights;
  sayWeights();
  $("score").min = page.session.lowest_score;
  $("score").max = 0.99;
  $("score").value = page.session.view_score;
}

const round = (number) => Number(number.toPrecision(3)).toString();
const sayWeights = () => { $("weights-note").textContent = $("weights").selectedOptions[0]?.dataset.note || ""; };

// ------------------------------------------------------------------ sending an image

async function sendFile(file) {
  if (file.size > page.session.max_upload) {
    clearMessages();
    say(`${file.name} has ${round(file.size / 1e6)} MB: this server takes ${round(page.session.max_upload / 1e6)} MB.`);
    return;
  }
  await sendImage(file.name, `api/images?name=${encodeURIComponent(file.name)}`, file);
}

async function sendImage(name, path, body) {
  const turn = ++page.turn;
  stopWaiting();
  clearMessages();
  progress(`Sending ${name} …`);
  $("find").disabled = true;
  try {
    const answer = await ask(path, { method: "POST", body, headers: { "Content-Type": "application/octet-stream" } });
    if (turn !== page.turn) return;
    takeImage(await answer.json());
    if (page.image.ready) await find();
    else say("Choose the page or the channels, and press Find objects.", "warning");
  } catch (error) {
    if (turn === page.turn) fail(error);
  } finally {
    if (turn === page.turn && !page.running) progress(null);
    $("find").disabled = page.image === null;
  }
}

function takeImage(image) {
  page.image = image;
  const deep = image.deep ? ", more than 8 bits" : "";
  $("image-about").textContent = `${image.name}: ${image.width} × ${image.height} pixels${deep}`;
  $("image-about").hidden = false;
  const pages = image.pages > 1;
  const channels = image.channels !== 1 && image.channels !== 3;
  $("page-field").hidden = !pages;
  $("page").value = 0;
  $("page").max = image.pages - 1;
  $("page-about").textContent = `0 to ${image.pages - 1}`;
  $("channels-field").hidden = image.channels === 1;
  $("channels").value = channels ? (image.channels === 2 ? "0" : "0,1,2") : "";
  $("channels-about").textContent = `one or three of 0 to ${image.channels - 1}`;
  $("intensity-field").hidden = !image.deep;
  $("intensity").value = "";
  (channels ? $("reading") : $("more")).append($("channels-field")); // a choice where there is one to be made
  $("reading").hidden = !(pages || channels || image.deep);
  page.image.ready = !pages && !channels;
}

// ------------------------------------------------------------------ predicting

function wanted() {
  const number = (id) => ($(id).value.trim() === "" || $(id).closest("label").hidden ? null : Number($(id).value));
  const numbers = (text) => text.split(",").map((part) => Number(part.trim()));
  const channels = $("channels-field").hidden ? "" : $("channels").value.trim();
  const intensity = $("intensity-field").hidden ? "" : $("intensity").value;
  return {
    image: page.image.image,
    weights: $("weights").value,
    tiles: $("tiles").value,
    tile_size: number("tile_size"),
    nms_thresh: number("nms_thresh"),
    mask_thresh: number("mask_thresh") ?? 0.5,
    top_k: number("top_k"),
    class_agnostic_nms: $("class_agnostic_nms").checked,
    mask_nms: $("mask_nms").checked,
    page: number("page"),
    channels: channels === "" ? null : numbers(channels),
    intensity: intensity === "" ? null : /^\d/.test(intensity) ? numbers(intensity) : intensity,
  };
}

async function find() {
  const turn = ++page.turn;
  stopWaiting();
  clearMessages();
  if (!$("controls").reportValidity()) return progress(null);
  if (matchMedia("(max-width: 720px)").matches) $("stage").scrollIntoView(); // below the controls there
  progress("Asking for a prediction …");
  $("cancel").hidden = false;
  try {
    const key = (await (await send("api/predictions", wanted())).json()).prediction;
    if (turn !== page.turn) return void ask(`api/predictions/${key}`, { method: "DELETE" }).catch(() => {});
    page.running = key;
    const state = await waitFor(key, turn);
    if (state === null || turn !== page.turn) return;
    if (state.state === "failed") throw new ServerError(state.error);
    if (state.state === "canceled") return;
    await take(key, turn);
    if (turn === page.turn) for (const sentence of state.warnings) say(sentence, "warning");
  } catch (error) {
    if (turn === page.turn) fail(error);
  } finally {
    if (turn === page.turn) {
      page.running = null;
      progress(null);
      $("cancel").hidden = true;
    }
  }
}

async function waitFor(key, turn) {
  for (let delay = 60; ; delay = Math.min(delay * 1.4, 700)) {
    const state = await (await ask(`api/predictions/${key}`)).json();
    if (turn !== page.turn) return null;
    if (["done", "failed", "canceled"].includes(state.state)) return state;
    if (state.state === "waiting") progress(state.ahead ? `Waiting: ${state.ahead} ${state.ahead === 1 ? "prediction comes" : "predictions come"} first.` : "Waiting …");
    else if (state.state === "loading") progress("Loading the weights …");
    else if (state.total) progress(`Looking at tile ${Math.min(state.done + 1, state.total)} of ${state.total} …`, state.done / state.total);
    else progress("Looking for objects …");
    await new Promise((resolve) => setTimeout(resolve, delay));
  }
}

function stopWaiting() {
  if (page.running) ask(`api/predictions/${page.running}`, { method: "DELETE" }).catch(() => {});
  page.running = null;
  $("cancel").hidden = true;
}

async function take(key, turn) {
  progress("Fetching the result …");
  const [objects, picture] = await Promise.all([
    ask(`api/predictions/${key}/objects`).then((answer) => answer.json()),
    ask(`api/predictions/${key}/picture`).then((answer) => answer.blob()),
  ]);
  if (turn !== page.turn) return;
  const old = $("pixels").getAttribute("href");
  $("pixels").setAttribute("href", URL.createObjectURL(picture));
  if (old) URL.revokeObjectURL(old);
  page.result = objects;
  page.key = key;
  page.hidden.clear();
  page.current = null;
  drawResult();
}

// ------------------------------------------------------------------ showing a result

function drawResult() {
  const { width, height, objects } = page.result;
  $("empty").hidden = true;
  $("viewer").hidden = false;
  $("results").hidden = false;
  $("pixels").setAttribute("width", width);
  $("pixels").setAttribute("height", height);
  $("picture").style.aspectRatio = `${width} / ${height}`;
  showPart(0, 0, width, height);
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
  if (matchMedia("(max-width: 720px)").matches) $("stage").scrollIntoView();
}

function listClasses() {
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

function filter() {
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
  clearTimeout(page.table);
  if (page.shown.length > 300) page.table = setTimeout(fillTable, 100); // not at each step of the slider
  else fillTable();
}

const objectsOf = (number) => `${number} ${number === 1 ? "object" : "objects"}`;

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

function fillTable() {
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

// ------------------------------------------------------------------ pointing at an object

function point(id, place = null) {
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

function markRow() {
  $("rows").querySelector("tr.on")?.classList.remove("on");
  if (page.current !== null) $("rows").querySelector(`tr[data-id="${page.current}"]`)?.classList.add("on");
}

function announce() {
  const object = page.result.objects[page.current - 1];
  $("current").textContent = `${object.name} ${object.id}, score ${object.score.toFixed(2)}, area ${object.area} pixels`;
}

function step(by) {
  if (page.shown.length === 0) return;
  const at = page.shown.findIndex((object) => object.id === page.current);
  const next = at < 0 ? (by > 0 ? 0 : page.shown.length - 1) : (at + by + page.shown.length) % page.shown.length;
  const object = page.shown[next];
  bringIntoView(object);
  point(object.id);
  announce();
}

function switchOff(id) {
  const at = page.shown.findIndex((object) => object.id === id);
  page.hidden.add(id);
  filter();
  return page.shown[Math.min(Math.max(at, 0), page.shown.length - 1)]?.id ?? null;
}

// ------------------------------------------------------------------ zooming

function showPart(x, y, width, height) {
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

function zoom(factor, place = null) {
  const { x, y, width, height } = page.view;
  const at = place || { x: x + width / 2, y: y + height / 2 };
  const smallest = 8 / page.result.width;
  const size = Math.max(width / factor, page.result.width * smallest);
  const scale = size / width;
  showPart(at.x - (at.x - x) * scale, at.y - (at.y - y) * scale, size, height * scale);
  point(null);
}

function placeOf(event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform($("picture").getScreenCTM().inverse());
}

function bringIntoView(object) {
  const [x1, y1, x2, y2] = object.box;
  const { x, y, width, height } = page.view;
  if (x1 >= x && y1 >= y && x2 <= x + width && y2 <= y + height) return;
  showPart((x1 + x2 - width) / 2, (y1 + y2 - height) / 2, width, height);
}

// ------------------------------------------------------------------ saving

async function save(button) {
  const before = button.textContent;
  button.disabled = true;
  button.textContent = "…";
  try {
    const answer = await send(`api/predictions/${page.key}/export`, {
      format: button.dataset.format,
      ids: page.shown.map((object) => object.id),
      color_by: $("by-class").checked ? "class" : "instance",
      fill: $("fill").checked,
    });
    const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition"))[1];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    fail(error);
  } finally {
    button.disabled = false;
    button.textContent = before;
    button.focus();
  }
}

// ------------------------------------------------------------------ what the user does

$("theme").addEventListener("change", () => {
  document.documentElement.dataset.theme = $("theme").value;
  try { localStorage.setItem("theme", $("theme").value); } catch { /* private windows keep nothing */ }
});
try {
  $("theme").value = localStorage.getItem("theme") || "auto";
} catch { /* as above */ }
document.documentElement.dataset.theme = $("theme").value;

$("weights").addEventListener("change", sayWeights);
$("controls").addEventListener("submit", (event) => { event.preventDefault(); find(); });
$("cancel").addEventListener("click", () => { page.turn += 1; stopWaiting(); progress(null); });
$("file").addEventListener("change", () => {
  if ($("file").files.length) sendFile($("file").files[0]);
  $("file").value = ""; // the same file can be chosen again
});
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => sendImage("the example", `api/examples/${button.dataset.example}`));
}
for (const button of document.querySelectorAll("[data-format]")) button.addEventListener("click", () => save(button));
for (const id of ["score", "area-min", "area-max"]) $(id).addEventListener("input", filter);
for (const id of ["show-masks", "fill", "by-class"]) {
  $(id).addEventListener("change", () => { colorMasks(); fillTable(); });
}
$("show-hidden").addEventListener("click", () => { page.hidden.clear(); filter(); $("score").focus(); });

let depth = 0; // dragging into a child leaves its parent
window.addEventListener("dragenter", (event) => { event.preventDefault(); depth += 1; $("dropping").hidden = false; });
window.addEventListener("dragleave", () => { depth -= 1; if (depth <= 0) { depth = 0; $("dropping").hidden = true; } });
window.addEventListener("dragover", (event) => event.preventDefault());
window.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  $("dropping").hidden = true;
  const files = event.dataTransfer.files;
  if (files.length) sendFile(files[0]);
  if (files.length > 1) setTimeout(() => say(`One image at a time: ${files[0].name} is taken.`, "warning"));
});
window.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) sendFile(file);
});

const picture = $("picture");
let grip = null; // where the picture is held, while it is moved
picture.addEventListener("pointermove", (event) => {
  if (!page.result) return;
  if (grip) {
    const now = placeOf(event);
    grip.moved = true;
    showPart(page.view.x + grip.x - now.x, page.view.y + grip.y - now.y, page.view.width, page.view.height);
    return;
  }
  const frame = $("frame").getBoundingClientRect();
  const id = event.target.dataset?.id;
  point(id ? Number(id) : null, { x: event.clientX - frame.x, y: event.clientY - frame.y });
});
picture.addEventListener("pointerleave", () => { if (!grip) point(null); });
picture.addEventListener("pointerdown", (event) => {
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
    0: () => showPart(0, 0, page.result.width, page.result.height),
  };
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
$("zoom-in").addEventListener("click", () => zoom(ZOOM));
$("zoom-out").addEventListener("click", () => zoom(1 / ZOOM));
$("zoom-fit").addEventListener("click", () => showPart(0, 0, page.result.width, page.result.height));
window.addEventListener("resize", () => point(null));

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

begin().catch(fail);
