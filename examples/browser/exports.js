// The files that can be saved: a table and GeoJSON, as Detections.save writes them.
import { colorOf } from "./colors.js";
import { tableText } from "./csv.js";

const MEASURED = {
  area: "integer", centroid_x: "float64", centroid_y: "float64", equivalent_diameter_area: "float64",
  axis_major_length: "float64", axis_minor_length: "float64", eccentricity: "float64", touches_edge: "flag",
};

/** Return the measurements of an image with so many channels, and what kind each is. */
function measuredColumns(channels) {
  const means = Array.from({ length: channels }, (_, channel) => [`intensity_mean_${channel}`, "float64"]);
  return { ...MEASURED, ...Object.fromEntries(means) };
}

/** Return a table of some objects, a row each. */
export function toCsv(objects, channels) {
  const columns = {
    id: "integer", label: "integer", name: "text", category_id: "integer", score: "float32",
    x1: "float32", y1: "float32", x2: "float32", y2: "float32", ...measuredColumns(channels),
  };
  const rows = objects.map(({ box: [x1, y1, x2, y2], measured, ...rest }) => ({ ...rest, x1, y1, x2, y2, ...measured }));
  return tableText(columns, rows);
}

/** Return some objects as GeoJSON that QuPath opens: coordinates are pixels, of which number i covers [i, i + 1). */
export function toGeoJson(objects, channels, madeBy) {
  const names = Object.keys(measuredColumns(channels));
  const features = objects.filter((object) => object.parts.length).map((object) => ({
    type: "Feature",
    id: object.id,
    geometry: geometryOf(object.parts),
    properties: {
      objectType: "detection",
      name: String(object.id),
      classification: { name: object.name, color: colorOf(object.label) },
      measurements: {
        id: object.id,
        score: object.score,
        ...Object.fromEntries(names.map((name) => [name, Number(object.measured[name])])),
      },
    },
  }));
  return JSON.stringify({ type: "FeatureCollection", made_by: madeBy, features });
}

function geometryOf(parts) {
  const polygons = parts.map((rings) => rings.map((ring) => [...ring, ring[0]])); // closed, as GeoJSON wants
  if (polygons.length === 1) return { type: "Polygon", coordinates: polygons[0] };
  return { type: "MultiPolygon", coordinates: polygons };
}

/** Return the name of a file to be saved: letters, digits, dots, dashes and underscores of the image's own. */
export function exportName(image, suffix) {
  const stem = image.replace(/(.)\.[^.]*$/, "$1").normalize("NFKD").replace(/[^\x00-\x7f]/g, "");
  const plain = stem.replace(/[^A-Za-z0-9._-]+/g, "_").replace(/^[._-]+|[._-]+$/g, "").slice(0, 80);
  return `${plain || "image"}${suffix}`;
}
