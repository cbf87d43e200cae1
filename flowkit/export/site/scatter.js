// Points in the plane: on a canvas while they flow, and as SVG to keep.

const MARGIN = 0.05; // of the window's side, around the points
const TAIL = 0.005; // share of the points on each side that the window need not hold

export function openScatter(canvas, facts) {
  let window_ = null; // the part of the plane that is shown

  const color = (labels, i) => {
    const label = labels?.[i];
    const number = label === undefined || label >= facts.class_names.length ? 0 : label % 8;
    return getComputedStyle(canvas).getPropertyValue(`--series-${number}`).trim();
  };
  const place = (x, y, size) => [
    ((x - window_.x) / window_.half + 1) * (size / 2),
    ((window_.y - y) / window_.half + 1) * (size / 2), // y points up
  ];

  /** Choose the window: nearly all of the finished points, and most of the noise. It stays while they still fit. */
  function settle(noise, x) {
    const range = (values, axis, tail) => {
      const sorted = values.filter((value, i) => i % 2 === axis && Number.isFinite(value)).sort();
      return [sorted[Math.floor(tail * sorted.length)] ?? -1, sorted[Math.ceil((1 - tail) * sorted.length) - 1] ?? 1];
    };
    const [across, up] = [0, 1].map((axis) => {
      const ends = [...range(x, axis, TAIL), ...range(noise, axis, 0.04)];
      return [Math.min(...ends), Math.max(...ends)];
    });
    const fits = window_ && [across, up].every(([low, high], axis) => {
      const center = axis ? window_.y : window_.x;
      return low > center - window_.half && high < center + window_.half;
    });
    if (fits) return;
    const half = (Math.max(across[1] - across[0], up[1] - up[0]) / 2) * (1 + 2 * MARGIN);
    window_ = { x: (across[0] + across[1]) / 2, y: (up[0] + up[1]) / 2, half };
  }

  function show(x, labels, before) {
    if (!window_) return;
    const size = Math.round(canvas.clientWidth * devicePixelRatio);
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, size, size);
    const dot = Math.max(2, size / 220);
    const byColor = new Map();
    for (let i = 0; 2 * i < x.length; i++) {
      const key = labels?.[i] ?? 0;
      if (!byColor.has(key)) byColor.set(key, []);
      byColor.get(key).push(i);
    }
    for (const rows of byColor.values()) {
      pen.strokeStyle = pen.fillStyle = color(labels, rows[0]);
      if (before && before !== x) {
        pen.globalAlpha = 0.3;
        pen.lineWidth = dot / 2;
        pen.beginPath();
        for (const i of rows) {
          pen.moveTo(...place(before[2 * i], before[2 * i + 1], size));
          pen.lineTo(...place(x[2 * i], x[2 * i + 1], size));
        }
        pen.stroke();
      }
      pen.globalAlpha = 0.75;
      for (const i of rows) {
        const [h, v] = place(x[2 * i], x[2 * i + 1], size);
        pen.fillRect(h - dot / 2, v - dot / 2, dot, dot);
      }
    }
    pen.globalAlpha = 1;
  }

  function svg(x, labels, size = 512) {
    const dots = new Map();
    for (let i = 0; 2 * i < x.length; i++) {
      const [h, v] = place(x[2 * i], x[2 * i + 1], size);
      if (!(h >= 0 && v >= 0 && h < size && v < size)) continue;
      const key = color(labels, i);
      dots.set(key, `${dots.get(key) ?? ""}M${h.toFixed(1)} ${v.toFixed(1)}h0`);
    }
    const paths = [...dots].map(([stroke, d]) => `<path d="${d}" stroke="${stroke}"/>`);
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" width="${size}" height="${size}" viewBox="0 0 ${size} ${size}">\n` +
      `<rect width="${size}" height="${size}" fill="white"/>\n` +
      `<g fill="none" stroke-width="4" stroke-linecap="round" stroke-opacity="0.75">\n${paths.join("\n")}\n</g>\n</svg>\n`
    );
  }

  return { show, svg, settle };
}
