// PNG files, decoded here: browsers reduce 16 bits to 8, and lose the colors under transparent pixels.
import { ReadError } from "./read_error.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const SAMPLES = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // of a pixel, by the kind of color
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
// First column and row, and the steps between them, of the seven passes of an interlaced image.
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

export const isPng = (bytes) => SIGNATURE.every((byte, i) => bytes[i] === byte);

/** Return what the first chunks say: width, height, depth, color, interlaced; frames, and the Exif data, if any. */
export function pngHeader(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 33 || nameAt(bytes, 12) !== "IHDR") throw new ReadError("its header is missing");
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [depth, color, , , interlaced] = bytes.subarray(24, 29);
  if (!width || !height || !DEPTHS[color]?.includes(depth)) throw new ReadError("its header is broken");
  const header = { width, height, depth, color, interlaced, frames: 1, exif: null, palette: null, data: [] };
  let ended = false;
  for (const { name, content } of chunks(bytes, view)) {
    if (name === "IDAT") header.data.push(content);
    if (name === "PLTE") header.palette = content;
    if (name === "acTL") header.frames = new DataView(content.buffer, content.byteOffset).getUint32(0);
    if (name === "eXIf") header.exif = content;
    ended = name === "IEND";
  }
  if (!header.data.length) throw new ReadError("it is truncated");
  return { ...header, ended };
}

/** Return the samples of a PNG, without alpha: width, height, channels (1 or 3), bits (1, 8 or 16) and samples. */
export async function decodePng(header) {
  const { width, height, depth, color, interlaced } = header;
  if (color === 3 && !header.palette) throw new ReadError("its palette is missing");
  const passes = (interlaced ? PASSES : [[0, 0, 1, 1]]).map(([x, y, stepX, stepY]) => ({
    x, y, stepX, stepY, width: Math.ceil((width - x) / stepX), height: Math.ceil((height - y) / stepY),
  })).filter((pass) => pass.width > 0 && pass.height > 0);
  const bitsOfPixel = SAMPLES[color] * depth;
  const nbytes = passes.reduce((sum, pass) => sum + (1 + Math.ceil((pass.width * bitsOfPixel) / 8)) * pass.height, 0);
  const raw = await inflated(header.data, nbytes);
  const channels = color === 0 || (color === 4 && depth === 16) ? 1 : 3; // as the Python package has them
  const samples = new (depth === 16 ? Uint16Array : Uint8Array)(width * height * channels);
  let at = 0;
  for (const pass of passes) at = decodePass(raw, at, pass, bitsOfPixel, { ...header, channels, samples });
  return { width, height, channels, bits: color === 0 && depth === 1 ? 1 : Math.max(depth, 8), samples };
}

// ------------------------------------------------------------------ the file

const nameAt = (bytes, at) => String.fromCharCode(...bytes.subarray(at, at + 4));

function* chunks(bytes, view) {
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at), name = nameAt(bytes, at + 4), end = at + 8 + length;
    if (end + 4 > bytes.length) throw new ReadError("it is truncated");
    const needed = name[0] === name[0].toUpperCase();
    if (needed && checksum(bytes.subarray(at + 4, end)) !== view.getUint32(end)) {
      throw new ReadError(`its part ${name} is damaged`);
    }
    yield { name, content: bytes.subarray(at + 8, end) };
    if (name === "IEND") return;
    at = end + 4;
  }
}

const CHECKSUMS = Uint32Array.from({ length: 256 }, (_, i) => {
  let value = i;
  for (let k = 0; k < 8; k++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function checksum(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = (value >>> 8) ^ CHECKSUMS[(value ^ byte) & 255];
  return ~value >>> 0;
}

/** Return the first bytes of what the parts hold, compressed by zlib. */
async function inflated(parts, nbytes) {
  const bytes = new Uint8Array(nbytes);
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  let at = 0;
  try {
    while (at < nbytes) {
      const { done, value } = await reader.read();
      if (done) break;
      bytes.set(value.subarray(0, nbytes - at), at);
      at += value.length;
    }
  } catch {
    throw new ReadError("its pixels are damaged");
  }
  reader.cancel().catch(() => {});
  if (at < nbytes) throw new ReadError("it is truncated");
  return bytes;
}

// ------------------------------------------------------------------ the pixels

function decodePass(raw, at, pass, bitsOfPixel, image) {
  const length = Math.ceil((pass.width * bitsOfPixel) / 8), distance = Math.max(1, bitsOfPixel >> 3);
  let before = new Uint8Array(length);
  for (let row = 0; row < pass.height; row++, at += 1 + length) {
    const line = raw.subarray(at + 1, at + 1 + length);
    unfilter(raw[at], line, before, distance);
    placeLine(line, pass, pass.y + row * pass.stepY, image);
    before = line;
  }
  return at;
}

function unfilter(kind, line, before, distance) {
  if (kind > 4) throw new ReadError("its pixels are damaged");
  for (let i = 0; i < line.length; i++) {
    const left = i < distance ? 0 : line[i - distance], up = before[i];
    if (kind === 1) line[i] += left;
    else if (kind === 2) line[i] += up;
    else if (kind === 3) line[i] += (left + up) >> 1;
    else if (kind === 4) line[i] += paeth(left, up, i < distance ? 0 : before[i - distance]);
  }
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const farLeft = Math.abs(guess - left), farUp = Math.abs(guess - up), farCorner = Math.abs(guess - corner);
  if (farLeft <= farUp && farLeft <= farCorner) return left;
  return farUp <= farCorner ? up : corner;
}

function placeLine(line, pass, y, { width, depth, color, palette, channels, samples }) {
  const perPixel = SAMPLES[color], scale = depth === 2 || depth === 4 ? 255 / (2 ** depth - 1) : 1;
  for (let i = 0; i < pass.width; i++) {
    const to = (y * width + pass.x + i * pass.stepX) * channels;
    if (color === 3) {
      const index = sampleAt(line, i, depth);
      for (let c = 0; c < 3; c++) samples[to + c] = palette[3 * index + c] ?? 0;
      continue;
    }
    for (let c = 0; c < channels; c++) {
      samples[to + c] = sampleAt(line, i * perPixel + (color === 4 ? 0 : c), depth) * scale;
    }
  }
}

function sampleAt(line, i, depth) {
  if (depth === 8) return line[i];
  if (depth === 16) return (line[2 * i] << 8) | line[2 * i + 1];
  const bit = i * depth;
  return (line[bit >> 3] >> (8 - depth - (bit & 7))) & (2 ** depth - 1);
}
