// Smooth outlines of masks, as the paths of an SVG drawing: those of lucid_maskrcnn/app/mask_outlines.py.
import { boundaryRings } from "./rings.js";

const SHORTEST = 12; // edges of a ring that is averaged; a smaller one would vanish
const FLAT = 0.02; // square pixels by which three points may miss a line, for the middle one to be left out
const WEIGHTS = [1, 4, 6, 4, 1]; // of the neighbors along the boundary, in sixteenths

/** Return the path of a mask, for the fill rule "evenodd"; an empty one for an empty mask. */
export function outlinePath(mask) {
  return boundaryRings(mask).map(({ points }) => pathOf(smoothed(points))).join("");
}

const pathOf = (points) => `M${points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}Z`;

function smoothed(corners) {
  const middles = middlesOfEdges(corners), num = middles.length;
  if (num < SHORTEST) return middles;
  const around = (list, i) => list[(i + num) % num];
  const points = middles.map((_, i) => [0, 1].map((axis) =>
    WEIGHTS.reduce((sum, weight, k) => sum + weight * around(middles, i + k - 2)[axis], 0) / 16));
  return points.filter(([x, y], i) => {
    const before = around(points, i - 1), after = around(points, i + 1);
    const bent = (before[0] - x) * (after[1] - y) - (before[1] - y) * (after[0] - x);
    return i % 4 === 0 || Math.abs(bent) > FLAT; // a wide curve is bent nowhere much
  });
}

function middlesOfEdges(corners) {
  return corners.flatMap(([x, y], i) => {
    const [nextX, nextY] = corners[(i + 1) % corners.length];
    const length = Math.abs(nextX - x) + Math.abs(nextY - y);
    const stepX = (nextX - x) / length, stepY = (nextY - y) / length;
    return Array.from({ length }, (_, k) => [x + stepX * (k + 0.5), y + stepY * (k + 0.5)]);
  });
}
