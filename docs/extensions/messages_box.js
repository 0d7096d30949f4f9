// Finds the entry of a message that is pasted: templates that fit it first, then those with most of its words.
const box = document.getElementById("message-box"), list = document.getElementById("message-found");
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const words = (text) => new Set((text.toLowerCase().match(/[\p{L}_]{2,}/gu) || []));
const known = MESSAGES.map(([template, title, href]) => {
  const parts = template.split(/\{[^{}]*\}/);
  return { template, title, href, weight: parts.join("").length, words: words(parts.join(" ")),
           pattern: new RegExp(parts.map(escaped).join("[^]*?")) };
});
const count = new Map();
for (const row of known) for (const word of row.words) count.set(word, (count.get(word) || 0) + 1);

function score(row, text, asked) {
  if (row.weight > 8 && row.pattern.test(text)) return 1000 + row.weight;
  let shared = 0, all = 0.5;
  for (const word of row.words) {
    const worth = 1 / Math.sqrt(count.get(word));
    all += worth;
    if (asked.has(word)) shared += worth;
  }
  return shared / Math.sqrt(all);
}

box.addEventListener("input", () => {
  const text = box.value.replace(/\s+/g, " "), asked = words(text);
  const best = new Map();
  for (const row of asked.size ? known : []) {
    const points = score(row, text, asked);
    if (points > 0.15 && points > (best.get(row.href)?.points || 0)) best.set(row.href, { points, row });
  }
  const found = [...best.values()].sort((a, b) => b.points - a.points).slice(0, 5);
  list.replaceChildren(...found.map(({ row }) => {
    const item = document.createElement("li"), link = document.createElement("a"), said = document.createElement("small");
    link.href = row.href;
    link.textContent = row.title;
    said.textContent = row.template;
    item.append(link, said);
    return item;
  }));
});
