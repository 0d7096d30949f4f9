// Masks from the grids of their boxes to the pixels of the image: the arithmetic of lucid_maskrcnn/ops/mask_resampling.py,
// in float32, with its fused multiply-add, so that both give the same pixels.
//
// A mask is the part of the image that it covers: left, top, width, height, and bits, row by row, 0 or 1.

const f32 = Math.fround;
const FAR = 2 ** 30; // where corners beyond the range of integers are clipped

/** Return the mask of each box; probs holds one grid of side × side after the other, boxes four numbers each. */
export function pasteMasks(probs, boxes, side, image, { threshold = 0.5, snap = false } = {}) {
  const masks = [];
  for (let i = 0; 4 * i < boxes.length; i++) {
    const [x1, y1, x2, y2] = boxes.subarray(4 * i, 4 * i + 4);
    const grid = probs.subarray(i * side * side, (i + 1) * side * side);
    const axes = snap
      ? [snapped(y1, y2, side, image.height), snapped(x1, x2, side, image.width)]
      : [sampled(y1, y2, side, image.height), sampled(x1, x2, side, image.width)];
    masks.push(pasted(grid, side, ...axes, f32(threshold), snap));
  }
  return masks;
}

function pasted(grid, side, rows, columns, threshold, above) {
  const height = rows.stop - rows.start, width = columns.stop - columns.start;
  const bits = new Uint8Array(height * width);
  const line = new Float32Array(side); // a row of the image in the columns of the grid
  for (let y = 0; y < height; y++) {
    for (let c = 0; c < side; c++) line[c] = blended(rows, y, side, (cell) => grid[cell * side + c]);
    for (let x = 0; x < width; x++) {
      const value = blended(columns, x, side, (cell) => line[cell]);
      bits[y * width + x] = above ? value > threshold : value >= threshold; // as torchvision's; as detectron2's
    }
  }
  return { left: columns.start, top: rows.start, width, height, bits };
}

/** Return the value at pixel i of an axis, between two cells at most. */
function blended(axis, i, side, value) {
  const cell = axis.cells[i];
  let sum = 0;
  if (cell >= 0 && cell < side) sum = f32(f32(axis.before[i]) * value(cell));
  if (cell + 1 >= 0 && cell + 1 < side) sum = f32(axis.after[i] * value(cell + 1) + sum); // one rounding
  return sum;
}

function weightsAt(start, stop, positionOf) {
  const num = stop - start;
  const axis = { start, stop, cells: new Int32Array(num), before: new Float32Array(num), after: new Float32Array(num) };
  for (let i = 0; i < num; i++) {
    const position = positionOf(start + i);
    const cell = Math.floor(position);
    axis.cells[i] = Math.min(Math.max(cell, -2), 1 << 20); // infinitely far
    axis.before[i] = Math.max(f32(1 - Math.abs(f32(position - cell))), 0) || 0;
    axis.after[i] = Math.max(f32(1 - Math.abs(f32(position - (cell + 1)))), 0) || 0;
  }
  return axis;
}

/** Return the pixels whose centers see a cell of the box, and the weights of the two cells that each of them sees. */
function sampled(first, last, side, limit) {
  const length = f32(last - first);
  if (!(length > 0 && Number.isFinite(length))) return weightsAt(0, 0);
  const margin = f32(f32(length / f32(2 * side)) + 1);
  const start = Math.min(Math.max(Math.floor(f32(first - margin)), 0), limit);
  const stop = Math.min(Math.max(Math.ceil(f32(last + margin)), start), limit);
  return weightsAt(start, stop, (pixel) => f32(f32(f32(f32(f32(pixel + 0.5) - first) / length) * side) - 0.5));
}

/** The same with the box rounded to whole pixels, one cell more around it, as in torchvision. */
function snapped(first, last, side, limit) {
  const half = f32(f32(f32(last - first) * 0.5) * f32((side + 2) / side));
  const center = f32(f32(last + first) * 0.5);
  const from = corner(f32(center - half)), to = corner(f32(center + half));
  const stop = Math.max(Math.min(to + 1, limit), 0), start = Math.min(Math.max(from, 0), stop);
  const step = f32((side + 2) / Math.max(to - from + 1, 1));
  return weightsAt(start, stop, (pixel) => f32(f32(f32(f32(f32(pixel - from) + 0.5) * step) - 0.5) - 1));
}

const corner = (value) => Math.trunc(Math.min(Math.max(Number.isNaN(value) ? -FAR : value, -FAR), FAR));
