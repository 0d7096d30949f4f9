// Tables as comma-separated values: the text of lucid_maskrcnn/annotation_formats/csv_tables.py.

const FORMULA = /^[=+\-@\t\r\n＝＋－＠]/; // what a spreadsheet takes for the beginning of a formula, and runs

/**
 * Return rows, objects with the same keys, as text with a line of headings.
 *
 * columns are the names of the columns and their kinds: "integer", "float32", "float64", "flag" or "text".
 */
export function tableText(columns, rows) {
  const names = Object.keys(columns);
  const lines = rows.map((row) => names.map((name) => quoted(CELLS[columns[name]](row[name]))));
  return [names.map(quoted), ...lines].map((cells) => `${cells.join(",")}\n`).join("");
}

const CELLS = {
  integer: String,
  float32: (value) => floatText(value, digitsOfFloat32),
  float64: (value) => floatText(value, (number) => number.toExponential()),
  flag: (value) => (value ? "True" : "False"),
  text: (value) => (FORMULA.test(value) ? `'${value}` : value),
};

const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);

/** Return a number as Python prints it; NaN is an empty cell. */
function floatText(value, shortest) {
  if (Number.isNaN(value)) return "";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [, sign, first, rest, power] = /^(-?)(\d)(?:\.(\d+))?e([+-]\d+)$/.exec(shortest(value));
  const digits = first + (rest ?? ""), exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    const tail = digits.length > 1 ? `.${digits.slice(1)}` : "";
    return `${sign}${first}${tail}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${digits.slice(exponent + 1) || "0"}`;
}

/** Return as few digits as tell a number from all others of 32 bits. */
function digitsOfFloat32(value) {
  for (let digits = 0; ; digits++) {
    const text = value.toExponential(digits);
    if (Math.fround(Number(text)) === value) return text.replace(/(\.\d*?)0+e/, "$1e").replace(".e", "e");
  }
}
