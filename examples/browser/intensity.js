// From 16 bits, or one, to 8: the rules and the arithmetic of lucid_maskrcnn/images/intensity.py.

const FULL = 65535;
const DIM = 4; // data that use less than this part of their range come out dark

/**
 * Return samples as bytes, and a warning or null.
 *
 * rule: "max", the largest sample is white; [low, high], these percentiles are black and white; "full", 65535 is white;
 * "" is the same, with a warning where it makes the image dark.
 */
export function to8Bits({ samples, bits }, rule) {
  if (bits === 1) return { bytes: samples.map((sample) => 255 * sample), warning: null };
  if (bits === 8) return { bytes: samples, warning: null };
  const counts = new Uint32Array(FULL + 1);
  for (const sample of samples) counts[sample] += 1;
  const largest = counts.findLastIndex((count) => count > 0);
  let low = 0, high = rule === "max" ? largest : FULL;
  if (Array.isArray(rule)) [low, high] = rule.map((percent) => percentile(counts, samples.length, percent));
  const table = Uint8Array.from(counts, (_, sample) => scaled(sample, low, high));
  const bytes = Uint8Array.from(samples, (sample) => table[sample]);
  const dark = rule === "" && largest > 0 && largest < (FULL + 1) / DIM;
  const warning = dark
    ? `comes out dark: its largest value is ${largest} of ${FULL}, as ${largest.toString(2).length} bits in 16 do. Choose another brightness.`
    : null;
  return { bytes, warning };
}

function scaled(sample, low, high) {
  if (high <= low) return 0; // a constant image has no contrast
  const above = Math.min(Math.max(sample, low), high) - low;
  const whole = Number.isInteger(low) && Number.isInteger(high);
  return whole ? Math.floor((510 * above + (high - low)) / (2 * (high - low))) : Math.floor((above * 255) / (high - low) + 0.5);
}

/** Return a percentile of counted samples, interpolated linearly. */
function percentile(counts, num, percent) {
  const rank = ((num - 1) * percent) / 100, below = Math.floor(rank);
  const [before, after] = [below, Math.ceil(rank)].map((place) => sampleAt(counts, place));
  return before + (after - before) * (rank - below);
}

function sampleAt(counts, place) {
  let sum = 0;
  return counts.findIndex((count) => (sum += count) > place);
}
