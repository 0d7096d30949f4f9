// The page without a server: a file is given, a worker finds its objects, and what is shown is chosen here.
import { $, isPhone } from "./dom.js";
import { Detector } from "./detector.js";
import { exportName, toCsv, toGeoJson } from "./exports.js";
import { onFile } from "./file_input.js";
import { MOST_BYTES, MOST_PIXELS } from "./image_files.js";
import { isolate } from "./isolation.js";
import { clearMessages, progress, say } from "./messages.js";
import { page } from "./page_state.js";
import { point } from "./pointing.js";
import { showResult } from "./result_view.js";
import { saveFile } from "./saving.js";
import "./theme.js";
import { RunClock } from "./run_clock.js";

Object.assign(page, {
  model: null, // what model.json says, once it is loaded
  threads: 1,
  file: null, // what was given last, and its name
  turn: 0, // counts what was given: an answer to an older one is dropped
  running: false,
});
Object.assign(window, { page, point }); // for the console, and for tests

const clock = new RunClock((text, share) => progress(text, share));

// ------------------------------------------------------------------ what the worker says

const isNow = ({ turn }) => turn === undefined || turn === page.turn;
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

const handlers = {
  loading({ done, total }) {
    const text = `Loading the model, ${megabytes(done)} of ${megabytes(total)} MB …`;
    $("loading").textContent = text;
    if (page.running) progress(text, done / total);
  },
  loaded({ model, threads }) {
    Object.assign(page, { model, threads });
    $("loading").textContent = `${model.name} is loaded: ${threads === 1 ? "one thread" : `${threads} threads`}.`;
    $("version").textContent = model.version;
    $("model-about").textContent = model.about;
    if (page.running) progress("Reading the image …");
  },
  running(event) {
    if (!isNow(event)) return;
    $("image-about").textContent = `${event.width} × ${event.height} pixels${event.deep ? ", 16 bits" : ""}`;
    $("image-about").hidden = false;
    $("intensity-field").hidden = !event.deep;
    preview(event.picture);
    clock.start(event.width * event.height * event.scale ** 2, page.threads);
  },
  tile(event) {
    if (!isNow(event)) return;
    clock.stop();
    const left = event.done ? `, about ${Math.ceil((event.seconds / event.done) * (event.total - event.done))} s left` : "";
    progress(`Looking at tile ${event.done + 1} of ${event.total}${left} …`, event.done / event.total);
  },
  found(event) {
    if (!isNow(event)) return;
    clock.stop(event.tiles ? undefined : event.seconds);
    done();
    const result = { ...event, weights: page.model.name, seconds: event.seconds.toFixed(1) };
    showResult(result, URL.createObjectURL(event.picture));
    for (const sentence of event.warnings) say(sentence, "warning");
  },
  failed(event) {
    if (!isNow(event)) return;
    clock.stop();
    done();
    if (event.turn === undefined) $("loading").textContent = "The model is not loaded.";
    say(event.sentence);
  },
};

/** Show an image while its objects are looked for, in place of the result before; null ends that. */
function preview(picture) {
  const old = $("preview").src;
  $("preview").hidden = picture === null;
  if (picture === null) $("preview").removeAttribute("src");
  else $("preview").src = URL.createObjectURL(picture);
  if (old) URL.revokeObjectURL(old);
}

function done() {
  page.running = false;
  preview(null);
  progress(null);
  $("cancel").hidden = true;
}

// ------------------------------------------------------------------ what people do

function take(file, name = file.name || "the pasted image") {
  page.file = { file, name };
  $("intensity").value = "";
  $("intensity-field").hidden = true; // until the file is known to have 16 bits
  find();
}

function find() {
  page.turn += 1;
  page.running = true;
  clock.stop();
  clearMessages();
  if (isPhone()) $("stage").scrollIntoView(); // below the controls there
  progress(page.model ? "Reading the image …" : "Loading the model …");
  $("cancel").hidden = false;
  $("image-name").textContent = page.file.name;
  $("image-about").hidden = true;
  const rule = $("intensity").value;
  const intensity = /^\d/.test(rule) ? rule.split(",").map(Number) : rule;
  detector.detect({ turn: page.turn, ...page.file, intensity });
}

async function takeExample(name) {
  const { turn } = page;
  const answer = await fetch(name).catch(() => null);
  if (turn !== page.turn) return;
  if (answer?.ok) take(await answer.blob(), name);
  else say("The example cannot be had: is there no network?");
}

function save(button) {
  const { format } = button.dataset, { name, channels } = page.result;
  const madeBy = { software: `lucid-maskrcnn ${page.model.version}`, weights: page.model.name, weights_sha256: page.model.sha256 };
  const csv = format === "csv";
  const text = csv ? toCsv(page.shown, channels) : toGeoJson(page.shown, channels, madeBy);
  saveFile(new Blob([text], { type: csv ? "text/csv" : "application/geo+json" }), exportName(name, `.${format}`));
}

$("cancel").addEventListener("click", () => {
  page.turn += 1;
  detector.cancel();
  clock.stop();
  done();
});
$("intensity").addEventListener("change", find);
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => takeExample(button.dataset.example));
}
for (const button of document.querySelectorAll("[data-format]")) button.addEventListener("click", () => save(button));
$("bounds").textContent = `up to ${MOST_BYTES / 1e6} MB, ${MOST_PIXELS / 1e6} million pixels`;
$("controls").addEventListener("submit", (event) => event.preventDefault());

// ------------------------------------------------------------------ the beginning

await isolate();
const detector = new Detector(handlers);
onFile(take);
document.documentElement.dataset.ready = "yes";
