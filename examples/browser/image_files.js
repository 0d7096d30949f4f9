// Image files as the network and the measurements take them: the same pixels that the Python package reads.
import { readHeader, whatItIs } from "./file_headers.js";
import { to8Bits } from "./intensity.js";
import { upright, withoutOrientation } from "./orientation.js";
import { decodePng } from "./png.js";
import { ReadError } from "./read_error.js";

export const MOST_BYTES = 100e6, MOST_PIXELS = 16e6;
const MOST_SIDE = 16384; // pixels that browsers draw
const INSTEAD = "Crop it, or use lucid-maskrcnn app on your own machine.";

/**
 * Read an image file.
 *
 * Returns width, height, channels, and samples as they are in the file, without alpha; rgb, three bytes a pixel, as the
 * network takes it; deep, whether the file has more than 8 bits; and warnings, sentences without a subject.
 */
export async function readImage(file, intensity) {
  if (file.size > MOST_BYTES) {
    throw new ReadError(`it has ${Math.round(file.size / 1e6)} MB, and this page takes ${MOST_BYTES / 1e6} MB. ${INSTEAD}`);
  }
  const bytes = await contentOf(file);
  const header = readHeader(bytes);
  checkPixels(header);
  const decoded = header.kind === "png" ? await decodePng(header.png) : await decodeByBrowser(bytes, header);
  const image = upright(decoded, header.orientation?.value ?? 1);
  const { bytes: eight, warning } = to8Bits(image, intensity);
  const warnings = [warning, image.transparent && "is transparent in parts: they are taken as black."];
  if (header.frames > 1) warnings.push(`has ${header.frames} frames: the first one is taken.`);
  if (header.png && !header.png.ended) warnings.push("lacks its end: what is there was read.");
  const rgb = image.channels === 3 ? eight : tripled(eight);
  return { ...image, rgb, deep: image.bits > 8, warnings: warnings.filter(Boolean) };
}

async function contentOf(file) {
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new ReadError("it cannot be opened: it is a folder, or is not there any more");
  }
}

function checkPixels({ width, height }) {
  if (width * height > MOST_PIXELS) {
    const has = `it has ${width} × ${height} pixels, ${Math.round((width * height) / 1e6)} million`;
    throw new ReadError(`${has}, and this page takes ${MOST_PIXELS / 1e6} million. ${INSTEAD}`);
  }
  if (Math.max(width, height) > MOST_SIDE) {
    throw new ReadError(`it has ${width} × ${height} pixels, and this page takes sides of up to ${MOST_SIDE}. ${INSTEAD}`);
  }
}

function tripled(gray) {
  const rgb = new Uint8Array(3 * gray.length);
  gray.forEach((value, i) => rgb.fill(value, 3 * i, 3 * i + 3));
  return rgb;
}

async function decodeByBrowser(bytes, header) {
  const stored = header.orientation ? withoutOrientation(bytes, header.orientation) : bytes;
  let bitmap;
  try {
    // Colors as they are in the file: a profile would change them, and the model was trained without.
    bitmap = await createImageBitmap(new Blob([stored]), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new ReadError(header.kind === "other" ? whatItIs(bytes) : "it is damaged");
  }
  const { width, height } = bitmap;
  checkPixels(bitmap);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, bits: 8, ...withoutAlpha(context.getImageData(0, 0, width, height).data, header.channels) };
}

function withoutAlpha(rgba, channels) {
  const num = rgba.length / 4, samples = new Uint8Array(num * channels);
  let transparent = false;
  for (let i = 0; i < num; i++) {
    for (let c = 0; c < channels; c++) samples[i * channels + c] = rgba[4 * i + c];
    transparent ||= rgba[4 * i + 3] < 255;
  }
  return { channels, samples, transparent };
}
