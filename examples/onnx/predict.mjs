// Find objects with an exported model in Node, without Python: node predict.mjs nuclei.onnx cells.png found
//
// Needs `npm install` in this folder, and a file of `lucid-maskrcnn export NUCLEI nuclei.onnx --full-masks`. Writes
// found.png, the image with its objects in color, and found.json, a COCO data set of them.

import { readFile, writeFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import sharp from "sharp";

if (process.argv.length !== 5) fail("usage: node predict.mjs MODEL.onnx IMAGE OUT");
const [modelPath, imagePath, out] = process.argv.slice(2);
ort.env.wasm.numThreads = 1; // in Node; a page may take more

const model = new Uint8Array(await readFile(modelPath));
const session = await ort.InferenceSession.create(model, { logSeverityLevel: 3 }); // errors only
if (!session.outputNames.includes("full_masks")) fail(`${modelPath} has no output full_masks: export it with --full-masks.`);
const about = metadata(model);
const categories = JSON.parse(about.categories);
const ids = new Map(categories.map(({ label, id }) => [label, id]));

const { data, height, width } = await pixels(imagePath, JSON.parse(about.conventions).image.intensity ?? "full");
const image = new ort.Tensor("uint8", data.slice(), [height, width, 3]);
const { boxes, scores, labels, full_masks: masks } = await session.run({ image });

const annotations = [];
for (let i = 0; i < scores.data.length && scores.data[i] > 0.5; i++) { // the best come first
  const mask = masks.data.subarray(i * height * width, (i + 1) * height * width);
  const color = [97, 57, 31].map((step) => (i * step + 80) % 256);
  const [x1, y1, x2, y2] = boxes.data.subarray(4 * i, 4 * i + 4);
  let area = 0;
  for (let p = 0; p < mask.length; p++) {
    if (!mask[p]) continue;
    area += 1;
    for (let c = 0; c < 3; c++) data[3 * p + c] = (data[3 * p + c] + color[c]) / 2;
  }
  const label = Number(labels.data[i]);
  annotations.push({
    id: i + 1, image_id: 1, category_id: ids.get(label) ?? label, bbox: [x1, y1, x2 - x1, y2 - y1], area,
    score: scores.data[i], segmentation: { size: [height, width], counts: runs(mask) }, iscrowd: 0,
  });
}
await sharp(data, { raw: { width, height, channels: 3 } }).png().toFile(`${out}.png`);
const images = [{ id: 1, file_name: imagePath, height, width }];
const named = categories.map(({ id, name }) => ({ id, name }));
await writeFile(`${out}.json`, JSON.stringify({ images, annotations, categories: named }));
console.log(`${annotations.length} objects: ${out}.png, ${out}.json`);

/** An image as the model was trained on it, in 8 bits RGB; gray of 16 bits is scaled by the model's rule. */
async function pixels(path, rule) {
  const picture = sharp(path, { ignoreIcc: true }).rotate().removeAlpha();
  const { depth } = await picture.metadata();
  if (depth === "uchar") return raw(picture.toColourspace("srgb").raw());
  if (depth !== "ushort" || !(rule === "full" || rule === "max")) {
    fail(`${path} has pixels of type ${depth}, and the model's rule for them is ${rule}: save it in 8 bits.`);
  }
  const deep = await raw(picture.toColourspace("rgb16").raw({ depth: "ushort" }));
  const samples = new Uint16Array(deep.data.buffer, deep.data.byteOffset, deep.data.length / 2);
  const high = rule === "full" ? 65535 : samples.reduce((most, value) => Math.max(most, value), 1);
  return { ...deep, data: Uint8Array.from(samples, (value) => Math.floor((255 * value) / high + 0.5)) };
}

async function raw(picture) {
  const { data, info } = await picture.toBuffer({ resolveWithObject: true });
  return { data, height: info.height, width: info.width };
}

function fail(sentence) {
  console.error(sentence);
  process.exit(1);
}

/** How many pixels are 0, 1, 0, … in turn, column by column, as COCO counts them. */
function runs(mask) {
  const counts = [0];
  let value = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if (mask[y * width + x] !== value) {
        value = 1 - value;
        counts.push(0);
      }
      counts[counts.length - 1] += 1;
    }
  }
  return counts;
}

/** The metadata of a model, which onnxruntime-web does not show: field 14 of the protocol buffer, pairs of texts. */
function metadata(bytes) {
  const found = {};
  for (const [field, value] of fields(bytes)) {
    if (field !== 14) continue;
    const [key, text] = [...fields(value)].map(([, part]) => new TextDecoder().decode(part));
    found[key] = text;
  }
  return found;
}

function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      value += (bytes[at] & 127) * scale;
      if (bytes[at++] < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const length = varint(); // or the value itself, where it is a number
    if (tag % 8 === 2) yield [tag >> 3, bytes.subarray(at, (at += length))];
  }
}
