// The orientation that a camera writes into a file, and images turned upright.

const ORIENTATION = 0x0112;

/**
 * Return where Exif data say the orientation: value from 1 (upright) to 8, and the offset and byte order of the number.
 *
 * bytes from start on are a TIFF header, or "Exif" and two zeros before it; null if they say nothing.
 */
export function findOrientation(bytes, start, end) {
  if (String.fromCharCode(...bytes.subarray(start, start + 4)) === "Exif") start += 6;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (start + 8 > end) return null;
  const order = view.getUint16(start), little = order === 0x4949;
  if (!little && order !== 0x4d4d) return null;
  const directory = start + view.getUint32(start + 4, little);
  if (directory + 2 > end) return null;
  for (let i = 0, num = view.getUint16(directory, little); i < num; i++) {
    const entry = directory + 2 + 12 * i;
    if (entry + 12 > end) return null;
    if (view.getUint16(entry, little) !== ORIENTATION) continue;
    const value = view.getUint16(entry + 8, little);
    return value >= 1 && value <= 8 ? { value, offset: entry + 8, little } : null;
  }
  return null;
}

/** Return a copy of a file that says it is upright, so that every browser decodes it as it is stored. */
export function withoutOrientation(bytes, { offset, little }) {
  const copy = bytes.slice();
  new DataView(copy.buffer).setUint16(offset, 1, little);
  return copy;
}

/** Return the samples of an image as they are seen with an orientation. */
export function upright(image, orientation) {
  if (orientation === 1) return image;
  const { width: storedWidth, height: storedHeight, channels, samples } = image;
  const swapped = orientation >= 5;
  const [width, height] = swapped ? [storedHeight, storedWidth] : [storedWidth, storedHeight];
  const mirrorX = [2, 3, 7, 8].includes(orientation), mirrorY = [3, 4, 6, 7].includes(orientation); // as stored
  const turned = new samples.constructor(samples.length);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [alongX, alongY] = swapped ? [y, x] : [x, y];
      const fromX = mirrorX ? storedWidth - 1 - alongX : alongX, fromY = mirrorY ? storedHeight - 1 - alongY : alongY;
      const from = (fromY * storedWidth + fromX) * channels;
      for (let c = 0; c < channels; c++) turned[to++] = samples[from + c];
    }
  }
  return { ...image, width, height, samples: turned };
}
