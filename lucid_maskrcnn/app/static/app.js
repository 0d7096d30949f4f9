// The page of the server: an image is sent, objects come back, and what is shown is chosen here, without asking again.
import { $, isPhone, round } from "./dom.js";
import { onFile } from "./file_input.js";
import { clearMessages, progress, say } from "./messages.js";
import { page } from "./page_state.js";
import { point } from "./pointing.js";
import { showResult } from "./result_view.js";
import { saveFile } from "./saving.js";
import "./theme.js";

Object.assign(page, {
  session: null, // key, and what the server says about itself
  image: null, // what was sent
  running: null, // key of the prediction that is waited for
  key: null, // of the result
  turn: 0, // counts images and predictions: an answer to an older one is dropped
});
Object.assign(window, { page, point }); // for the console, and for tests

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

function fail(error) {
  if (!(error instanceof ServerError)) console.error(error);
  say(error instanceof ServerError ? error.message : "This page made a mistake: load it anew.");
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
  if (isPhone()) $("stage").scrollIntoView(); // below the controls there
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
  page.key = key;
  showResult(objects, URL.createObjectURL(picture));
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
    saveFile(await answer.blob(), name);
  } catch (error) {
    fail(error);
  } finally {
    button.disabled = false;
    button.textContent = before;
    button.focus();
  }
}

// ------------------------------------------------------------------ what the user does

$("weights").addEventListener("change", sayWeights);
$("controls").addEventListener("submit", (event) => { event.preventDefault(); find(); });
$("cancel").addEventListener("click", () => { page.turn += 1; stopWaiting(); progress(null); });
onFile(sendFile);
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => sendImage("the example", `api/examples/${button.dataset.example}`));
}
for (const button of document.querySelectorAll("[data-format]")) button.addEventListener("click", () => save(button));

begin().catch(fail);
