// What overlapping tiles have found becomes what the whole image has: the rules of lucid_maskrcnn/inference/tile_merging.py.
//
// Two detections of different tiles are the same object if they cover the same pixels of what both tiles see. Of those that
// lie inside their tiles the best is kept; a part at a border yields to a whole one; parts of what no tile sees whole are
// united.
import { areaOf, areaWithin, boundsOf, sharedArea, united } from "./mask_areas.js";

const NEAR = 2; // pixels from a border at which an object touches it: a predicted outline is not exact
const MERGE = 0.5; // IoU from which on two detections are the same object

/** Return each object once, the best first; found are objects with box, score, label, mask and tile, by tile. */
export function mergeTiles(found, grid) {
  const all = found.map((object, row) => described(object, row, grid));
  const pairs = pairsOf(all, grid);
  for (const { one, other, same } of bothWays(pairs)) {
    if (same && reachesOut(other.extent, grid.boxes[one.tile])) one.isPart = true; // of several pieces a tile sees one
  }
  const order = [...all].sort((a, b) => b.score - a.score || a.row - b.row);
  const kept = bestOf(order, pairs.filter(({ one, other, same }) => same && !one.isPart && !other.isPart));
  const yielding = new Set(bothWays(pairs).filter(yields).map(({ one }) => one));
  const parts = new Set(all.filter((object) => object.isPart && !yielding.has(object)));
  const leader = groupsOf(all, pairs.filter(({ one, other, same }) => same && parts.has(one) && parts.has(other)));
  const sizes = new Map();
  for (const object of all) sizes.set(leader(object), (sizes.get(leader(object)) ?? 0) + 1);
  for (const part of [...parts]) {
    if (sizes.get(leader(part)) === 1 && isNarrow(part) && liesInsideATile(part.extent, grid)) parts.delete(part);
  }
  return unitedGroups(order.filter((object) => kept.has(object) || parts.has(object)), leader);
}

function described(object, row, grid) {
  const area = areaOf(object.mask), bounds = boundsOf(object.mask), [x1, y1, x2, y2] = object.box;
  const extent = bounds
    ? [Math.min(x1, bounds[0]), Math.min(y1, bounds[1]), Math.max(x2, bounds[2]), Math.max(y2, bounds[3])] : object.box;
  const border = grid.boxes[object.tile], inner = grid.innerSides[object.tile];
  const near = extent.map((value, i) => (i < 2 ? value <= border[i] + NEAR : value >= border[i] - NEAR));
  const touched = near.map((value, i) => value && inner[i]);
  return { ...object, row, area, extent, touched, isPart: touched.some(Boolean) };
}

// ------------------------------------------------------------------ pairs

/** Return the pairs of different tiles whose boxes overlap: the two, whether they are the same, and the share of either. */
function pairsOf(all, grid) {
  const byTile = grid.boxes.map(() => []);
  for (const object of all) byTile[object.tile].push(object);
  const pairs = [];
  for (let i = 0; i < byTile.length; i++) {
    for (let j = i + 1; j < byTile.length; j++) {
      const seen = intersection(grid.boxes[i], grid.boxes[j]);
      if (!hasArea(seen)) continue;
      const reaching = (object) => hasArea(intersection(object.extent, seen));
      const others = byTile[j].filter(reaching);
      for (const one of byTile[i].filter(reaching)) {
        for (const other of others) {
          if (one.label === other.label && hasArea(intersection(one.extent, other.extent))) pairs.push(paired(one, other, seen));
        }
      }
    }
  }
  return pairs;
}

function paired(one, other, seen) {
  const shared = sharedArea(one.mask, other.mask);
  const both = areaWithin(one.mask, seen) + areaWithin(other.mask, seen) - shared;
  const iou = one.area && other.area ? shared / Math.max(both, 1) : boxIou(one.box, other.box, seen);
  return { one, other, same: iou >= MERGE, ofOne: shared / Math.max(one.area, 1), ofOther: shared / Math.max(other.area, 1) };
}

const bothWays = (pairs) => pairs.flatMap((pair) => [
  { one: pair.one, other: pair.other, same: pair.same, share: pair.ofOne },
  { one: pair.other, other: pair.one, same: pair.same, share: pair.ofOther },
]);

function boxIou(one, other, seen) {
  const a = intersection(one, seen), b = intersection(other, seen);
  const shared = boxArea(intersection(a, b));
  return shared / Math.max(boxArea(a) + boxArea(b) - shared, 1e-9);
}

const intersection = (a, b) => a.map((value, i) => (i < 2 ? Math.max(value, b[i]) : Math.min(value, b[i])));
const hasArea = ([x1, y1, x2, y2]) => x1 < x2 && y1 < y2;
const boxArea = ([x1, y1, x2, y2]) => Math.max(x2 - x1, 0) * Math.max(y2 - y1, 0);
const reachesOut = (extent, box) => extent.some((value, i) => (i < 2 ? value < box[i] : value > box[i]));

// ------------------------------------------------------------------ what is kept

/** Return those that lie inside their tiles, without those that are the same as a better one. */
function bestOf(order, pairs) {
  const kept = new Set(order.filter((object) => !object.isPart)), same = new Map(order.map((object) => [object, []]));
  for (const { one, other } of pairs) {
    same.get(one).push(other);
    same.get(other).push(one);
  }
  const done = new Set();
  for (const object of order) {
    done.add(object);
    if (kept.has(object)) for (const other of same.get(object)) if (!done.has(other)) kept.delete(other);
  }
  return kept;
}

/** Whether a part yields: to the same object, if that is whole, or to any larger one that has most of its pixels. */
function yields({ one, other, same, share }) {
  const inside = share >= MERGE && !same && (!other.isPart || other.area > one.area);
  return one.isPart && (inside || (same && !other.isPart));
}

/** Whether a part reaches less far into its tile than half of what it has of the border. */
function isNarrow({ extent: [x1, y1, x2, y2], touched }) {
  const width = x2 - x1, height = y2 - y1;
  return ((touched[0] || touched[2]) && 2 * width < height) || ((touched[1] || touched[3]) && 2 * height < width);
}

function liesInsideATile(extent, { lefts, tops, size, width, height }) {
  const inside = (begin, end, starts, side, length) => starts.some((start) =>
    (begin > start + NEAR || start === 0) && (end < start + side - NEAR || start + side === length));
  return inside(extent[0], extent[2], lefts, size.width, width) && inside(extent[1], extent[3], tops, size.height, height);
}

/** Return a function that gives the same object for all that pairs connect. */
function groupsOf(all, pairs) {
  const parent = new Map(all.map((object) => [object, object]));
  const leader = (object) => {
    while (parent.get(object) !== object) object = parent.get(object);
    return object;
  };
  for (const { one, other } of pairs) {
    const [first, second] = [leader(one), leader(other)].sort((a, b) => a.row - b.row);
    parent.set(second, first);
  }
  return leader;
}

/** Return each group as one object, with the score and the label of its best. */
function unitedGroups(objects, leader) {
  const groups = new Map();
  for (const object of objects) groups.set(leader(object), [...(groups.get(leader(object)) ?? []), object]);
  return [...groups.values()].map((members) => {
    const { score, label, mask } = members[0];
    const side = (i) => members.map((member) => member.box[i]);
    const box = [Math.min(...side(0)), Math.min(...side(1)), Math.max(...side(2)), Math.max(...side(3))];
    return { box, score, label, mask: members.length === 1 ? mask : united(members.map((member) => member.mask)) };
  });
}
