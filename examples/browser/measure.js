// Measurements of objects, under the names and with the conventions of lucid_maskrcnn/measure.py.

/** Return the runs of a mask down the columns of the image: column, first row and the row after the last of each. */
export function runsOf(mask) {
  const { left, top, width, height, bits } = mask;
  const runs = [];
  for (let x = 0; x < width; x++) {
    for (let y = 0, first = -1; y <= height; y++) {
      const set = y < height && bits[y * width + x];
      if (set && first < 0) first = y;
      if (!set && first >= 0) {
        runs.push([left + x, top + first, top + y]);
        first = -1;
      }
    }
  }
  return runs;
}

/**
 * Measure a mask. image has width, height, channels and samples, those of a pixel after each other.
 *
 * An empty mask has the area and the diameter 0, and NaN for everything else that is a number.
 */
export function measureMask(mask, image) {
  const runs = runsOf(mask);
  const area = runs.reduce((sum, [, first, last]) => sum + last - first, 0);
  const { x, y, xx, yy, xy } = moments(runs, area);
  const middle = (xx + yy) / 2, spread = Math.hypot((xx - yy) / 2, xy);
  const major = 4 * Math.sqrt(middle + spread), minor = 4 * Math.sqrt(Math.max(middle - spread, 0));
  const measured = {
    area,
    centroid_x: x,
    centroid_y: y,
    equivalent_diameter_area: Math.sqrt((4 * area) / Math.PI),
    axis_major_length: major,
    axis_minor_length: minor,
    eccentricity: major === 0 ? 0 : Math.sqrt(Math.max(1 - (minor / major) ** 2, 0)),
    touches_edge: runs.some(([column, first, last]) =>
      column === 0 || column === image.width - 1 || first === 0 || last === image.height),
  };
  const sums = intensities(runs, image);
  sums.forEach((sum, channel) => { measured[`intensity_mean_${channel}`] = sum / area; });
  return measured;
}

function moments(runs, area) {
  let sumX = 0, sumY = 0;
  for (const [column, first, last] of runs) {
    sumX += (last - first) * (column + 0.5);
    sumY += (last - first) * ((first + last) / 2);
  }
  const x = sumX / area, y = sumY / area;
  let sumXX = 0, sumYY = 0, sumXY = 0;
  for (const [column, first, last] of runs) {
    const length = last - first, dx = column + 0.5 - x, dy = (first + last) / 2 - y;
    sumXX += length * (dx * dx);
    sumYY += length * (dy * dy) + (length * (length * length - 1)) / 12; // and those from the run's own middle
    sumXY += length * dx * dy;
  }
  return { x, y, xx: sumXX / area, yy: sumYY / area, xy: sumXY / area };
}

function intensities(runs, { width, channels, samples }) {
  const sums = new Array(channels).fill(0);
  for (const [column, first, last] of runs) {
    for (let row = first; row < last; row++) {
      const at = (row * width + column) * channels;
      for (let channel = 0; channel < channels; channel++) sums[channel] += samples[at + channel];
    }
  }
  return sums;
}
