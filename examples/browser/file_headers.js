// What an image file is and has, before its pixels are decoded: its content counts, not its name.
import { findOrientation } from "./orientation.js";
import { isPng, pngHeader } from "./png.js";
import { ReadError } from "./read_error.js";

const PNG = "save it as PNG, where 16 bits stay 16 bits";
// Offset, text, what it is, and what to do.
const OTHERS = [
  [0, "II*\0", "a TIFF file", PNG], [0, "MM\0*", "a TIFF file", PNG],
  [0, "II+\0", "a TIFF file", PNG], [0, "MM\0+", "a TIFF file", PNG],
  [4, "ftyphe", "a HEIC image", PNG], [4, "ftypmif1", "a HEIC image", PNG], [4, "ftyp", "a video or a HEIC image", PNG],
  [0, "%PDF-", "a PDF document", PNG], [128, "DICM", "a DICOM file", PNG],
  [0, "ZISRAWFILE", "a Zeiss CZI file", PNG], [0, "\xda\xce\xbe\x0a", "a Nikon ND2 file", PNG],
  [0, "\x70\0\0\0", "a Leica LIF file", PNG], [0, "\xd0\xcf\x11\xe0", "an OLE file, as Olympus OIB", PNG],
  [0, "\x89HDF", "an HDF5 file", PNG], [0, "8BPS", "a Photoshop file", PNG], [0, "\0\0\0\x0cjP  ", "a JPEG 2000 image", PNG],
  [0, "P5", "a PGM image", PNG], [0, "P6", "a PPM image", PNG],
  [0, "PK\x03\x04", "a zip archive", "unpack it"], [0, "\x1f\x8b", "a gzip archive", "unpack it"],
];

/**
 * Return kind ("png", "jpeg", "gif", "webp", "bmp" or "other"), width, height, frames, channels, and orientation, as
 * findOrientation returns it; of "other" the kind only, as the browser may know it.
 */
export function readHeader(bytes) {
  if (!bytes.length) throw new ReadError("it is an empty file");
  if (isPng(bytes)) return headerOfPng(bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = textAt(bytes, 0, 12);
  try {
    if (text.startsWith("\xff\xd8\xff")) return headerOfJpeg(bytes, view);
    if (/^GIF8[79]a/.test(text)) return headerOfGif(bytes, view);
    if (/^RIFF....WEBP/s.test(text)) return headerOfWebp(bytes, view);
    if (text.startsWith("BM")) return headerOfBmp(view);
  } catch (error) {
    if (error instanceof RangeError) throw new ReadError("it is truncated");
    throw error;
  }
  return { kind: "other", frames: 1, channels: 3, orientation: null };
}

/** Return the end of a sentence about a file that the browser cannot decode. */
export function whatItIs(bytes) {
  const head = textAt(bytes, 0, 400);
  if (/^\s*(<\?xml|<svg)/i.test(head) && /<svg/i.test(textAt(bytes, 0, 4000))) return "it is an SVG drawing: save it as PNG";
  if (/^\s*<(!doctype html|html)/i.test(head)) return "it is not an image, but a web page: save the image itself";
  const other = OTHERS.find(([offset, magic]) => head.startsWith(magic, offset));
  if (other) return `it is ${other[2]}, which browsers do not read: ${other[3]}`;
  return "it is not an image, or of a kind that browsers do not read: PNG, JPEG, WebP, GIF and BMP are read";
}

const textAt = (bytes, start, length) => String.fromCharCode(...bytes.subarray(start, start + length));

function headerOfPng(bytes) {
  const png = pngHeader(bytes);
  const orientation = png.exif && findOrientation(png.exif, 0, png.exif.length);
  return { kind: "png", width: png.width, height: png.height, frames: png.frames, channels: null, orientation, png };
}

function headerOfJpeg(bytes, view) {
  const header = { kind: "jpeg", frames: 1, channels: 3, orientation: null }; // further frames are previews
  for (let at = 2; ;) {
    if (view.getUint8(at) !== 0xff) throw new ReadError("it is damaged");
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) { at += 1; continue; }
    if (marker === 0xd9) break;
    if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd7)) { at += 2; continue; }
    const end = at + 2 + view.getUint16(at + 2);
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      Object.assign(header, { height: view.getUint16(at + 5), width: view.getUint16(at + 7) });
      header.channels = view.getUint8(at + 9) === 1 ? 1 : 3;
    }
    if (marker === 0xe1 && textAt(bytes, at + 4, 4) === "Exif") header.orientation ??= findOrientation(bytes, at + 4, end);
    at = marker === 0xda ? endOfScan(bytes, end) : end;
  }
  if (!header.width || !header.height) throw new ReadError("its header is broken");
  return header;
}

/** Return where the marker after compressed data begins. */
function endOfScan(bytes, at) {
  for (at = bytes.indexOf(0xff, at); at >= 0 && at + 1 < bytes.length; at = bytes.indexOf(0xff, at + 1)) {
    const next = bytes[at + 1];
    if (next !== 0 && next !== 0xff && !(next >= 0xd0 && next <= 0xd7)) return at;
  }
  throw new ReadError("it is truncated");
}

function headerOfGif(bytes, view) {
  const header = { kind: "gif", frames: 0, channels: 3, orientation: null };
  Object.assign(header, { width: view.getUint16(6, true), height: view.getUint16(8, true) });
  const tableSize = (flags) => (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0);
  let at = 13 + tableSize(view.getUint8(10));
  const skipBlocks = () => {
    while (view.getUint8(at)) at += 1 + view.getUint8(at);
    at += 1;
  };
  while (at < bytes.length && bytes[at] !== 0x3b) { // programs forget the trailer
    if (bytes[at] === 0x2c) {
      at += 10 + tableSize(view.getUint8(at + 9)) + 1;
      skipBlocks();
      header.frames += 1;
    } else if (bytes[at] === 0x21) {
      at += 2;
      skipBlocks();
    } else break;
  }
  if (!header.frames) throw new ReadError("it is truncated");
  return header;
}

function headerOfWebp(bytes, view) {
  const header = { kind: "webp", frames: 0, channels: 3, orientation: null };
  if (view.getUint32(4, true) + 8 > bytes.length) throw new ReadError("it is truncated");
  for (let at = 12; at + 8 <= bytes.length;) {
    const name = textAt(bytes, at, 4), start = at + 8, end = start + view.getUint32(at + 4, true);
    const uint24 = (place) => view.getUint16(place, true) | (view.getUint8(place + 2) << 16);
    if (name === "VP8X") Object.assign(header, { width: uint24(start + 4) + 1, height: uint24(start + 7) + 1 });
    else if (name === "VP8 " && !header.width) {
      Object.assign(header, { width: view.getUint16(start + 6, true) & 0x3fff, height: view.getUint16(start + 8, true) & 0x3fff });
    } else if (name === "VP8L" && !header.width) {
      const sizes = view.getUint32(start + 1, true);
      Object.assign(header, { width: (sizes & 0x3fff) + 1, height: ((sizes >>> 14) & 0x3fff) + 1 });
    } else if (name === "EXIF") header.orientation = findOrientation(bytes, start, Math.min(end, bytes.length));
    if (name === "ANMF") header.frames += 1;
    at = end + (end & 1);
  }
  return { ...header, frames: header.frames || 1 };
}

function headerOfBmp(view) {
  const old = view.getUint32(14, true) === 12; // OS/2
  const width = old ? view.getUint16(18, true) : view.getInt32(18, true);
  const height = Math.abs(old ? view.getUint16(20, true) : view.getInt32(22, true));
  return { kind: "bmp", width, height, frames: 1, channels: 3, orientation: null };
}
