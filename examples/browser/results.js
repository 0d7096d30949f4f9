// From the model's answer to objects that the page shows and saves.
import { colorsOf, css } from "./colors.js";
import { measureMask } from "./measure.js";
import { outlinePath } from "./outline_paths.js";
import { pasteMasks } from "./paste.js";
import { traceParts } from "./rings.js";

/** Return the detections in an image, or in a tile whose first pixel is at left and top: box, score, label and mask. */
export function detectionsOf(output, size, model, [left, top] = [0, 0]) {
  const side = output.masks.dims[1], options = { threshold: model.mask_thresh, snap: model.snap_masks };
  const masks = pasteMasks(output.masks.data, output.boxes.data, side, size, options);
  return masks.map((mask, i) => ({
    box: [...output.boxes.data.subarray(4 * i, 4 * i + 4)].map((value, k) => Math.fround(value + (k % 2 ? top : left))),
    score: output.scores.data[i],
    label: Number(output.labels.data[i]),
    mask: { ...mask, left: mask.left + left, top: mask.top + top },
  }));
}

/**
 * Return the objects of an image, the best first, from its detections: id (its place from 1 on), label, name, category_id,
 * score, box, area, measured, parts (polygons along the edges of its pixels), path (its smooth outline), color and
 * class_color.
 */
export function describeObjects(detections, image, model) {
  const boxes = detections.map(({ box }) => box), labels = detections.map(({ label }) => label);
  const colors = colorsOf(image.rgb, image, boxes, labels.map((_, i) => i));
  const classColors = colorsOf(image.rgb, image, boxes, labels);
  return detections.map(({ box, score, label, mask }, i) => {
    const measured = measureMask(mask, image), category = model.categories[label];
    return {
      id: i + 1,
      label,
      name: category?.name ?? `class ${label}`,
      category_id: category?.id ?? label,
      score,
      box,
      area: measured.area,
      measured,
      parts: traceParts(mask),
      path: outlinePath(mask),
      color: css(colors[i]),
      class_color: css(classColors[i]),
    };
  });
}
