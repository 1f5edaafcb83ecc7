// The lines that differ between two texts.

const MOST_LINES = 4000;
const AROUND = 3;

// Return lines as ``{ kind, mark, text }``, with some equal ones around each change; ``null`` for texts that are too
// long, and none for equal ones. The lines at both ends that are equal are left out first.
export function changes(old, now) {
  if (old === now) return [];
  const a = old.split("\n");
  const b = now.split("\n");
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const [x, y] = [a.slice(head, a.length - tail), b.slice(head, b.length - tail)];
  if (x.length > MOST_LINES || y.length > MOST_LINES || x.length * y.length > 4e6) return null;
  // The lengths of the longest common parts, from each pair of lines to the end.
  const width = y.length + 1;
  const common = new Uint16Array((x.length + 1) * width);
  for (let i = x.length - 1; i >= 0; i -= 1) {
    for (let j = y.length - 1; j >= 0; j -= 1) {
      common[i * width + j] =
        x[i] === y[j] ? common[(i + 1) * width + j + 1] + 1 : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const lines = a.slice(0, head).map((text) => ({ kind: "same", mark: " ", text }));
  let [i, j] = [0, 0];
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) {
      lines.push({ kind: "same", mark: " ", text: x[i] });
      i += 1;
      j += 1;
    } else if (j >= y.length || (i < x.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      lines.push({ kind: "removed", mark: "−", text: x[i] });
      i += 1;
    } else {
      lines.push({ kind: "added", mark: "+", text: y[j] });
      j += 1;
    }
  }
  lines.push(...b.slice(b.length - tail).map((text) => ({ kind: "same", mark: " ", text })));
  const last = lines.at(-1);
  if (last.kind === "same" && last.text === "") lines.pop(); // what follows the end of the last line
  const near = new Set();
  lines.forEach((line, n) => {
    if (line.kind !== "same") for (let k = n - AROUND; k <= n + AROUND; k += 1) near.add(k);
  });
  return lines.flatMap((line, n) => (near.has(n) ? [line] : near.has(n - 1) ? [{ kind: "gap", mark: "", text: "⋯" }] : []));
}
