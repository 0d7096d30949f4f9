// From the model's answer to objects that the page shows and saves.
import { colorsOf, css } from "./colors.js";
import { measureMask } from "./measure.js";
import { outlinePath } from "./outline_paths.js";
import { pasteMasks } from "./paste.js";
import { traceParts } from "./rings.js";

/**
 * Return the objects of an image, the best first: id (its place from 1 on), label, name, category_id, score, box, area,
 * measured, parts (polygons along the edges of its pixels), path (its smooth outline), color and class_color.
 */
export function describeObjects(output, image, model) {
  const [num, side] = output.masks.dims;
  const boxes = Array.from({ length: num }, (_, i) => [...output.boxes.data.subarray(4 * i, 4 * i + 4)]);
  const labels = Array.from(output.labels.data, Number);
  const masks = pasteMasks(output.masks.data, output.boxes.data, side, image, { threshold: model.mask_thresh, snap: model.snap_masks });
  const colors = colorsOf(image.rgb, image, boxes, labels.map((_, i) => i));
  const classColors = colorsOf(image.rgb, image, boxes, labels);
  return masks.map((mask, i) => {
    const measured = measureMask(mask, image);
    const category = model.categories[labels[i]];
    return {
      id: i + 1,
      label: labels[i],
      name: category?.name ?? `class ${labels[i]}`,
      category_id: category?.id ?? labels[i],
      score: output.scores.data[i],
      box: boxes[i],
      area: measured.area,
      measured,
      parts: traceParts(mask),
      path: outlinePath(mask),
      color: css(colors[i]),
      class_color: css(classColors[i]),
    };
  });
}
