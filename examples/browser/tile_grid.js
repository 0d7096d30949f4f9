// Overlapping tiles that cover a large image: those of lucid_maskrcnn/inference/tile_grid.py.

/** Return the side of the tiles for an image, or null where it is looked at as a whole. */
export function tileSizeFor({ width, height }, { scale, max_size: most }) {
  if (scale === null) return null; // a large photograph shows no more people than a small one
  const side = Math.max(1, Math.round(most / scale / 2)), longest = Math.max(width, height);
  return longest > side && (width * height > 2 * side ** 2 || longest * scale > most) ? side : null;
}

/**
 * Return the tiles of an image: boxes ([x1, y1, x2, y2] of each, along the rows), innerSides (whether the left, top, right
 * and bottom side of each is inside the image), and what they are made of.
 */
export function tileGrid({ width, height }, side) {
  const step = side - Math.max(1, Math.floor(side / 4));
  const size = { width: Math.min(side, width), height: Math.min(side, height) };
  const lefts = starts(width, size.width, step), tops = starts(height, size.height, step);
  const boxes = tops.flatMap((top) => lefts.map((left) => [left, top, left + size.width, top + size.height]));
  const innerSides = boxes.map(([x1, y1, x2, y2]) => [x1 > 0, y1 > 0, x2 < width, y2 < height]);
  return { width, height, side, size, lefts, tops, boxes, innerSides };
}

function starts(length, size, step) {
  const list = [];
  for (let start = 0; start < length - size; start += step) list.push(start);
  return [...list, length - size];
}

/** Return the pixels of a tile, of so many channels. */
export function cutTile(pixels, { width }, [x1, y1, x2, y2], channels) {
  const line = (x2 - x1) * channels, cut = new pixels.constructor(line * (y2 - y1));
  for (let y = y1; y < y2; y++) {
    const from = (y * width + x1) * channels;
    cut.set(pixels.subarray(from, from + line), (y - y1) * line);
  }
  return cut;
}
