// The colors of objects: those of lucid_maskrcnn/visualization/colors.py.

const CLEAR = 32; // contrast that a color must have with what it is drawn on
const VERY_CLEAR = 36; // that of a color in place of another
const FEW = 8, MANY = 24; // numbers whose colors are kept apart, the first ones most; later ones begin again
const DARK = 50, LIGHT = 65; // lightness of what is darker, and lighter, than middle gray
const HUE_WEIGHT = 0.35; // thin lines are seen by lightness more than by hue
const SMALL = 1024; // pixels: an image is looked at no larger than this
const GOLDEN = 0.6180339887;

/** Return the color [red, green, blue] of a number: bright, and far in hue from those of the numbers near it. */
export function colorOf(number) {
  const hue = (0.08 + number * GOLDEN) % 1;
  const color = fromHue(hue, [0.56, 0.68, 0.48][number % 3]);
  const dim = Math.max(0, 100 - (0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2])); // blue on black is invisible
  return color.map((part) => Math.round(part + ((255 - part) * dim) / 255));
}

export const css = (color) => `#${color.map((part) => part.toString(16).padStart(2, "0")).join("")}`;

/**
 * Return the color of each object: that of its number, or another if that would vanish in this image.
 *
 * pixels are RGB of image.width × image.height; objects of one number have one color.
 */
export function colorsOf(pixels, image, boxes, numbers) {
  if (!boxes.length) return [];
  const grounds = groundsOf(pixels, image, boxes);
  const groups = new Map();
  numbers.forEach((number, i) => groups.set(number, [...(groups.get(number) ?? []), grounds[i]]));
  const own = new Map();
  for (const [number, behind] of groups) {
    const color = colorOf(number);
    own.set(number, clearnessOf(lab(color), behind, true) < CLEAR ? clearColor(number, behind) : color);
  }
  return numbers.map((number) => own.get(number));
}

/** Return the contrast of a color that nine tenths of the backgrounds have at least. */
function clearnessOf(color, grounds) {
  const worst = grounds.map((two) => Math.min(...two.map((ground) => contrast(color, ground)))).sort((a, b) => a - b);
  return worst[Math.floor(worst.length / 10)];
}

function contrast(a, b) {
  return Math.hypot(a[0] - b[0], HUE_WEIGHT * (a[1] - b[1]), HUE_WEIGHT * (a[2] - b[2]));
}

const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);

/** Return a color that is clear on the backgrounds of a number's objects, and far from those of the numbers before it. */
function clearColor(number, grounds) {
  const lightness = grounds.flat().map((ground) => ground[0]).sort((a, b) => a - b);
  const median = (lightness[(lightness.length - 1) >> 1] + lightness[lightness.length >> 1]) / 2;
  const candidates = CANDIDATES.map(({ color, place }) => {
    const tooDark = median < LIGHT && place[0] < DARK; // dark lines are seen on light backgrounds only
    return { color, place, clearness: tooDark ? 0 : clearnessOf(place, grounds) };
  });
  const least = Math.min(VERY_CLEAR, Math.max(...candidates.map((candidate) => candidate.clearness)) * 0.9);
  const clear = candidates.filter((candidate) => candidate.clearness >= least);
  number %= MANY;
  const usual = Array.from({ length: number < FEW ? FEW : MANY }, (_, j) => lab(colorOf(j)));
  const clearness = usual.map((place) => clearnessOf(place, grounds));
  const taken = usual.filter((_, j) => clearness[j] >= 0.7 * CLEAR && j !== number);
  let best = null;
  for (let turn = clearness.slice(0, number).filter((value) => value < CLEAR).length; turn >= 0; turn--) {
    const farness = clear.map(({ place }) => Math.min(...taken.map((other) => distance(place, other))));
    best = clear[farness.indexOf(Math.max(...farness))];
    taken.push(best.place);
  }
  return best.color;
}

function fromHue(hue, lightness) {
  const high = lightness <= 0.5 ? lightness * 1.95 : lightness + 0.95 - lightness * 0.95, low = 2 * lightness - high;
  const part = (turn) => {
    const place = ((turn % 1) + 1) % 1;
    if (place < 1 / 6) return low + (high - low) * place * 6;
    if (place < 1 / 2) return high;
    return place < 2 / 3 ? low + (high - low) * (2 / 3 - place) * 6 : low;
  };
  return [part(hue + 1 / 3), part(hue), part(hue - 1 / 3)].map((value) => 255 * value);
}

const LINEAR = Float64Array.from({ length: 256 }, (_, i) =>
  (i / 255 <= 0.04045 ? i / 255 / 12.92 : ((i / 255 + 0.055) / 1.055) ** 2.4));

/** Return the Lab of an sRGB color from 0 to 255. */
function lab([red, green, blue]) {
  const r = LINEAR[red], g = LINEAR[green], b = LINEAR[blue];
  const root = (value) => (value > 0.008856 ? Math.cbrt(value) : 7.787 * value + 16 / 116);
  const x = root((0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505);
  const y = root(0.2126 * r + 0.7152 * g + 0.0722 * b);
  const z = root((0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089);
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

const CANDIDATES = Array.from({ length: 108 }, (_, i) => {
  const color = fromHue(Math.floor(i / 3) / 36, [0.3, 0.5, 0.7][i % 3]).map(Math.round);
  return { color, place: lab(color) };
});

// ------------------------------------------------------------------ what lies behind

/** Return the mean Lab in the middle of each box, and around it. */
function groundsOf(pixels, { width, height }, boxes) {
  const step = Math.max(1, Math.ceil(Math.max(width, height) / SMALL)); // of larger images every so many pixels
  const small = { width: Math.ceil(width / step), height: Math.ceil(height / step) };
  const sums = summed(pixels, width, small, step);
  return boxes.map((box) => {
    const [x1, y1, x2, y2] = box.map((value) => value / step);
    const middle = [(x1 + x2) / 2, (y1 + y2) / 2], half = [(x2 - x1) / 2, (y2 - y1) / 2];
    const inside = (factor, more) => sumIn(sums, small, middle, half.map((value) => value * factor + more));
    const inner = inside(0.6, 0), box1 = inside(1, 0), outer = inside(1.3, 1);
    const around = outer.map((value, k) => value - box1[k]);
    const mean = (values) => values.slice(0, 3).map((value) => value / values[3]);
    return [mean(inner), mean(around[3] > 0.5 ? around : inner)]; // nothing is around an object that fills the image
  });
}

/** Return the sums of Lab and of ones over all rectangles that begin at the corner. */
function summed(pixels, width, small, step) {
  const stride = (small.width + 1) * 4, sums = new Float64Array(stride * (small.height + 1));
  for (let y = 0; y < small.height; y++) {
    for (let x = 0; x < small.width; x++) {
      const from = (y * step * width + x * step) * 3;
      const values = [...lab([pixels[from], pixels[from + 1], pixels[from + 2]]), 1];
      const at = (y + 1) * stride + (x + 1) * 4;
      for (let k = 0; k < 4; k++) sums[at + k] = values[k] + sums[at + k - 4] + sums[at + k - stride] - sums[at + k - stride - 4];
    }
  }
  return sums;
}

/** Return the sums over a box of at least one pixel of the image. */
function sumIn(sums, { width, height }, [x, y], [halfX, halfY]) {
  const clipped = (value, low, high) => Math.min(Math.max(value, low), high);
  const x1 = clipped(Math.floor(x - halfX), 0, width - 1), y1 = clipped(Math.floor(y - halfY), 0, height - 1);
  const x2 = clipped(Math.ceil(x + halfX), x1 + 1, width), y2 = clipped(Math.ceil(y + halfY), y1 + 1, height);
  const at = (row, column, k) => sums[(row * (width + 1) + column) * 4 + k];
  return [0, 1, 2, 3].map((k) => at(y2, x2, k) - at(y1, x2, k) - at(y2, x1, k) + at(y1, x1, k));
}
