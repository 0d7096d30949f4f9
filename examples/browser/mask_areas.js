// Areas of masks, of what they share, and of what lies in a box. A mask is as paste.js makes it.

export const areaOf = ({ bits }) => bits.reduce((sum, bit) => sum + bit, 0);

/** Return the box [x1, y1, x2, y2] around the pixels of a mask; null if it has none. */
export function boundsOf({ left, top, width, bits }) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < bits.length; i++) {
    if (!bits[i]) continue;
    const x = left + (i % width), y = top + Math.floor(i / width);
    box[0] = Math.min(box[0], x);
    box[1] = Math.min(box[1], y);
    box[2] = Math.max(box[2], x + 1);
    box[3] = Math.max(box[3], y + 1);
  }
  return box[0] < box[2] ? box : null;
}

/** Return how many pixels of a mask lie in a box. */
export function areaWithin(mask, box) {
  return countIn(mask, box, () => 1);
}

/** Return how many pixels two masks share. */
export function sharedArea(one, other) {
  const { left, top, width, height, bits } = other;
  return countIn(one, [left, top, left + width, top + height], (x, y) => bits[(y - top) * width + x - left]);
}

function countIn({ left, top, width, height, bits }, [x1, y1, x2, y2], value) {
  let sum = 0;
  for (let y = Math.max(top, y1); y < Math.min(top + height, y2); y++) {
    for (let x = Math.max(left, x1); x < Math.min(left + width, x2); x++) {
      if (bits[(y - top) * width + x - left]) sum += value(x, y);
    }
  }
  return sum;
}

/** Return the mask of all pixels of some masks. */
export function united(masks) {
  const left = Math.min(...masks.map((mask) => mask.left)), top = Math.min(...masks.map((mask) => mask.top));
  const width = Math.max(...masks.map((mask) => mask.left + mask.width)) - left;
  const height = Math.max(...masks.map((mask) => mask.top + mask.height)) - top;
  const bits = new Uint8Array(width * height);
  for (const mask of masks) {
    mask.bits.forEach((bit, i) => {
      if (bit) bits[(mask.top - top + Math.floor(i / mask.width)) * width + mask.left - left + (i % mask.width)] = 1;
    });
  }
  return { left, top, width, height, bits };
}
