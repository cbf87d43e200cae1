// Drawings: rows of S cubics (8 numbers, canvas [-1, 1], y down), with pen strokes also two signs: exists, continues.
// As flowkit/sketch/strokes.py and flowkit/sketch/svg_write.py.

const [EXISTS, CONTINUES] = [8, 9];

/** Sampled rows (N, S, 10), as a data set has them: signs of -1 and 1, and pen strokes without gaps. fixed (N, S) do not move. */
export function tidy(x, S, fixed = null) {
  const W = 10;
  const y = new Float32Array(x.length);
  for (let n = 0; n * S * W < x.length; n++) {
    const row = Array.from({ length: S }, (_, s) => x.slice((n * S + s) * W, (n * S + s + 1) * W));
    let likely = 0;
    row.forEach((cubic, s) => (likely = cubic[EXISTS] > row[likely][EXISTS] ? s : likely));
    row[likely][EXISTS] = 1;
    const there = row.map((cubic) => cubic[EXISTS] > 0);
    const joined = row.map((cubic, s) => s > 0 && there[s] && there[s - 1] && cubic[CONTINUES] > 0);
    const order = [...row.keys()].sort((a, b) => there[b] - there[a]); // stable: those that exist first
    const cubics = order.map((s) => ({
      at: row[s], there: there[s], joined: joined[s], still: Boolean(fixed?.[n * S + s]),
    }));
    for (const { at, there, joined } of cubics) {
      if (!there) at.fill(0);
      at[EXISTS] = there ? 1 : -1;
      at[CONTINUES] = joined ? 1 : -1;
    }
    // How far the start of each cubic moves toward the end of the one before: half the gap, unless one of them is fixed.
    const gaps = cubics.map(({ at }, s) => (s ? [0, 1].map((i) => Math.fround(cubics[s - 1].at[6 + i] - at[i])) : [0, 0]));
    cubics.forEach((cubic, s) => {
      if (!cubic.joined) return;
      const before = cubics[s - 1];
      const share = cubic.still ? 0 : before.still ? 1 : 0.5;
      for (const i of [0, 1]) {
        cubic.at[i] += gaps[s][i] * share;
        cubic.at[2 + i] += gaps[s][i] * share;
        if (!before.still) {
          before.at[4 + i] += gaps[s][i] * (share - 1);
          before.at[6 + i] += gaps[s][i] * (share - 1);
        }
        if (!cubic.still) cubic.at[i] = before.at[6 + i]; // exactly, in spite of rounding
        else if (!before.still) before.at[6 + i] = cubic.at[i];
      }
    });
    cubics.forEach(({ at }, s) => y.set(at, (n * S + s) * W));
  }
  return y;
}

/** The pen strokes of one row (S, 8 or 10): a list of lists of cubics, and how surely each stroke exists, from 0 to 1. */
export function penStrokes(row, width) {
  const strokes = [];
  for (let s = 0; s * width < row.length; s++) {
    const cubic = row.slice(s * width, (s + 1) * width);
    const sure = width > EXISTS ? Math.min(1, Math.max(0, (cubic[EXISTS] + 1) / 2)) : 1;
    const there = width <= EXISTS || cubic[EXISTS] > 0;
    if (!there || !cubic.every(Number.isFinite)) continue;
    const joins = width > CONTINUES && cubic[CONTINUES] > 0 && strokes.length > 0 && strokes.at(-1).last === s - 1;
    if (!joins) strokes.push({ cubics: [], sure, first: s, last: s });
    strokes.at(-1).cubics.push(cubic);
    strokes.at(-1).last = s;
  }
  return strokes;
}

/** Pen strokes (lists of cubics) as a row of S cubics, and which of its tokens are given. */
export function asRow(strokes, S, width) {
  const row = new Float32Array(S * width);
  const tokens = new Uint8Array(S);
  if (width > EXISTS) for (let s = 0; s < S; s++) row.fill(-1, s * width + EXISTS, (s + 1) * width);
  let s = 0;
  for (const stroke of strokes) {
    stroke.forEach((cubic, number) => {
      row.set(cubic.slice(0, 8), s * width);
      if (width > EXISTS) [row[s * width + EXISTS], row[s * width + CONTINUES]] = [1, number ? 1 : -1];
      tokens[s++] = 1;
    });
  }
  return { row, tokens };
}

/** The `d` of an SVG path, with the canvas [-1, 1] mapped to `size` units. */
export function pathData(cubics, size, digits = 3) {
  const text = (value) => `${Number((((value + 1) * size) / 2).toFixed(digits))}`;
  const [first] = cubics;
  const rest = cubics.map((cubic) => `C${[2, 3, 4, 5, 6, 7].map((i) => text(cubic[i])).join(" ")}`);
  return `M${text(first[0])} ${text(first[1])}${rest.join("")}`;
}

const escaped = (text) => text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);

/** One row as an SVG document, as `flowkit sample` writes it. */
export function svg(row, width, title = "", size = 512) {
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${size}" height="${size}" viewBox="0 0 ${size} ${size}">`,
    ...(title ? [`<title>${escaped(title)}</title>`] : []),
    `<rect width="${size}" height="${size}" fill="white"/>`,
    `<g fill="none" stroke="black" stroke-width="${(0.011 * size).toPrecision(4)}" stroke-linecap="round" stroke-linejoin="round">`,
    ...penStrokes(row, width).map(({ cubics }) => `<path d="${pathData(cubics, size)}"/>`),
    "</g>",
    "</svg>",
    "",
  ];
  return lines.join("\n");
}
