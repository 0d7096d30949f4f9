// The work, apart from the page, which so stays alive: the model is loaded and run, and its answer made ready to show.
//
// Messages in: {call: "load"}, {call: "detect", turn, file, name, intensity}.
// Messages out: {event: "loading", done, total}, {event: "loaded", model, threads}, {event: "running", turn, …},
// {event: "tile", turn, done, total, seconds}, {event: "found", turn, …}, {event: "failed", turn, sentence, fatal}: after a
// fatal one it is of no use.
import * as ort from "./onnxruntime.js";
import { fetchAll } from "./fetching.js";
import { readImage } from "./image_files.js";
import { ReadError } from "./read_error.js";
import { describeObjects, detectionsOf } from "./results.js";
import { cutTile, tileGrid, tileSizeFor } from "./tile_grid.js";
import { mergeTiles } from "./tile_merging.js";

const LARGE = 2_000_000; // pixels; the picture of a larger image is shown as JPEG
const MOST_THREADS = 8; // more of them wait for each other
let model = null, session = null;

async function load() {
  model = await (await fetch("model.json")).json();
  const files = await fetchAll([model.runtime, model.weights], (done, total) => postMessage({ event: "loading", done, total }));
  const threads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
  ort.env.wasm.wasmBinary = files[0].buffer;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error"; // it warns that the input network_size may be left out, as it is
  session = await ort.InferenceSession.create(files[1], { executionProviders: ["wasm"], logSeverityLevel: 3 });
  postMessage({ event: "loaded", model, threads });
}

async function detect({ turn, file, name, intensity }) {
  const image = await readImage(file, intensity);
  const { width, height, channels } = image, side = tileSizeFor(image, model.image);
  const picture = await pictureOf(image);
  postMessage({ event: "running", turn, width, height, deep: image.deep, scale: scalesOf(image).own, picture });
  const started = performance.now();
  const { detections, tiles, full } = await (side === null ? detectWhole(image) : detectTiles(image, side, turn));
  const seconds = (performance.now() - started) / 1000;
  const limits = [...(side === null ? warningsOfSize(image) : []), ...warningsOfNumber(full, tiles)];
  const warnings = [...image.warnings, ...limits].map((sentence) => `${name} ${sentence}`);
  const objects = describeObjects(detections, image, model);
  const about = { name, width, height, channels, seconds, tiles, tile_size: side };
  postMessage({ event: "found", turn, ...about, objects, picture, warnings });
}

async function run(rgb, { width, height }) {
  const input = new ort.Tensor("uint8", rgb, [height, width, 3]);
  return session.run({ image: input }, ["boxes", "scores", "labels", "masks"]);
}

async function detectWhole(image) {
  const detections = detectionsOf(await run(image.rgb, image), image, model);
  return { detections, tiles: 0, full: detections.length === model.top_k };
}

async function detectTiles(image, side, turn) {
  const grid = tileGrid(image, side), total = grid.boxes.length, found = [], started = performance.now();
  let full = false;
  for (const [tile, box] of grid.boxes.entries()) {
    postMessage({ event: "tile", turn, done: tile, total, seconds: (performance.now() - started) / 1000 });
    const detections = detectionsOf(await run(cutTile(image.rgb, image, box, 3), grid.size), grid.size, model, box);
    full ||= detections.length === model.top_k;
    for (const detection of detections) found.push({ ...detection, tile });
  }
  return { detections: mergeTiles(found, grid), tiles: total, full };
}

/** Return the factor by which the network sees an image enlarged, and the one that the model was trained with. */
function scalesOf({ width, height }) {
  const { scale, min_size: least, max_size: most } = model.image;
  const wanted = scale ?? least / Math.min(width, height);
  return { wanted, own: Math.min(wanted, most / Math.max(width, height)) };
}

function warningsOfSize(image) {
  const { wanted, own } = scalesOf(image);
  const enough = model.image.scale === null ? wanted / 2 : wanted; // photographs are shrunk a little as in training
  if (own >= enough) return [];
  return [`is large for this model, which sees it enlarged by ${own.toPrecision(3)} instead of ${wanted.toPrecision(3)}: small `
    + "objects may be missing. Crop it, or use lucid-maskrcnn app, where tiles can be chosen."];
}

function warningsOfNumber(full, tiles) {
  if (!full) return [];
  const where = tiles ? "in some tiles" : "";
  return [`has as many objects ${where} as the model finds at most, ${model.top_k}: there may be more.`.replace("  ", " ")];
}

async function pictureOf({ width, height, rgb }) {
  const pixels = new ImageData(width, height), { data } = pixels;
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
    for (let channel = 0; channel < 3; channel++) data[to + channel] = rgb[from + channel];
    data[to + 3] = 255;
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas.convertToBlob(width * height <= LARGE ? { type: "image/png" } : { type: "image/jpeg", quality: 0.9 });
}

function sentenceOf(error, name) {
  if (error instanceof ReadError) return `Cannot read ${name}: ${error.message.replace(/\.$/, "")}.`;
  console.error(error);
  const memory = error instanceof RangeError || /memory|alloc/i.test(error.message);
  if (memory) return `There is not enough memory for ${name} in this browser: crop it, or close other pages.`;
  return `This page made a mistake (${error.message}): load it anew.`;
}

onmessage = async ({ data }) => {
  try {
    if (data.call === "load") await load();
    else await detect(data);
  } catch (error) {
    const sentence = data.call === "load" ? `The model cannot be loaded: ${error.message}.` : sentenceOf(error, data.name);
    postMessage({ event: "failed", turn: data.turn, sentence, fatal: !(error instanceof ReadError) });
  }
};
