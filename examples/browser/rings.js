// The boundaries of masks, along the edges of their pixels: the rings of lucid_maskrcnn/masks/rings.py and parts.py.
//
// Pixels that meet at a corner only are apart: parts are 4-connected, and holes are 8-connected.

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // east, south, west, north

/**
 * Return the closed boundaries of a mask, by the row and the column of their first points.
 *
 * Each has points, corners of pixels where it turns, from the leftmost of its topmost on; isOuter, whether it goes around a
 * part, clockwise on a screen, or around a hole; and part, the number of the part that it belongs to.
 */
export function boundaryRings(mask) {
  const { width, height } = mask;
  const grid = padded(mask), stride = width + 2;
  const parts = numberParts(grid, stride);
  const seen = new Uint8Array(grid.length); // pixels whose upper side belongs to a ring that was followed
  const rings = [];
  for (let y = 1; y <= height; y++) {
    for (let x = 1; x <= width; x++) {
      const at = y * stride + x;
      if (!grid[at] || grid[at - stride] || seen[at]) continue;
      const points = fromTopLeft(follow(grid, stride, x, y, seen));
      const placed = points.map(([px, py]) => [px - 1 + mask.left, py - 1 + mask.top]);
      rings.push({ points: placed, isOuter: signedArea(placed) > 0, part: parts[at] });
    }
  }
  return rings.sort((a, b) => a.points[0][1] - b.points[0][1] || a.points[0][0] - b.points[0][0]);
}

/**
 * Return the parts of a mask as polygons with holes: an outer ring, clockwise on a screen, and those of the holes.
 *
 * No ring touches itself; the first point of a ring is not repeated.
 */
export function traceParts(mask) {
  const outer = new Map(), holes = new Map();
  for (const ring of boundaryRings(mask)) {
    const simple = simpleRings(ring.points);
    for (const points of simple) {
      if (ring.isOuter && (simple.length === 1 || signedArea(points) > 0)) outer.set(ring.part, points);
      else holes.set(ring.part, [...(holes.get(ring.part) ?? []), points]);
    }
  }
  return [...outer].map(([part, points]) => [points, ...(holes.get(part) ?? [])]);
}

/** Split a ring where it comes back to a point. */
function simpleRings(points) {
  const rings = [], place = new Map();
  let path = [];
  for (const point of points) {
    const key = String(point), first = place.get(key);
    if (first !== undefined) {
      rings.push(path.slice(first));
      for (const left of path.slice(first)) place.delete(String(left));
      path = path.slice(0, first);
    }
    place.set(key, path.length);
    path.push(point);
  }
  return [...rings, path];
}

/** Return twice the number of pixels inside a ring, negative if it goes around a hole. */
function signedArea(points) {
  let sum = 0;
  points.forEach(([x, y], i) => {
    const [nextX, nextY] = points[(i + 1) % points.length];
    sum += x * nextY - nextX * y;
  });
  return sum;
}

function padded({ width, height, bits }) {
  const grid = new Uint8Array((width + 2) * (height + 2));
  for (let y = 0; y < height; y++) grid.set(bits.subarray(y * width, (y + 1) * width), (y + 1) * (width + 2) + 1);
  return grid;
}

function numberParts(grid, stride) {
  const parts = new Int32Array(grid.length).fill(-1);
  for (let start = 0, number = 0; start < grid.length; start++) {
    if (!grid[start] || parts[start] >= 0) continue;
    parts[start] = number;
    for (const stack = [start]; stack.length;) {
      const at = stack.pop();
      for (const next of [at - 1, at + 1, at - stride, at + stride]) {
        if (!grid[next] || parts[next] >= 0) continue;
        parts[next] = number;
        stack.push(next);
      }
    }
    number += 1;
  }
  return parts;
}

/** Follow a boundary from the upper left corner of a pixel to the east, with the mask on the right hand. */
function follow(grid, stride, startX, startY, seen) {
  const points = [];
  let x = startX, y = startY, direction = 0;
  do {
    if (direction === 0) seen[y * stride + x] = 1;
    x += STEPS[direction][0];
    y += STEPS[direction][1];
    const turn = turnAt(grid, stride, x, y, direction);
    if (turn === 0) continue;
    points.push([x, y]);
    direction = (direction + turn) & 3;
  } while (x !== startX || y !== startY || direction !== 0);
  return points;
}

/** Return 1 for a turn to the right, -1 to the left and 0 for none; where two pixels meet it stays with its own. */
function turnAt(grid, stride, x, y, direction) {
  const onTheRight = [[0, 0], [-1, 0], [-1, -1], [0, -1]]; // of the pixels around the corner, the one ahead, by direction
  const pixel = ([dx, dy]) => grid[(y + dy) * stride + x + dx];
  if (!pixel(onTheRight[direction])) return 1;
  return pixel(onTheRight[(direction + 3) & 3]) ? -1 : 0;
}

function fromTopLeft(points) {
  let first = 0;
  points.forEach(([x, y], i) => {
    const [bestX, bestY] = points[first];
    if (y < bestY || (y === bestY && x < bestX)) first = i;
  });
  return [...points.slice(first), ...points.slice(0, first)];
}
