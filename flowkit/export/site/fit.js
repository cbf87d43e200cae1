// Freehand points to cubics: Schneider's algorithm ("An Algorithm for Automatically Fitting Digitized Curves", Graphics Gems, 1990).

const ROUNDS = 4; // of moving the parameters to the nearest points, before a curve is split

const sub = (a, b) => [a[0] - b[0], a[1] - b[1]];
const plus = (a, b, scale = 1) => [a[0] + scale * b[0], a[1] + scale * b[1]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
const length = (a) => Math.hypot(a[0], a[1]);
const unit = (a) => (length(a) > 0 ? [a[0] / length(a), a[1] / length(a)] : [0, 0]);

/** Fit points [[x, y], ...] by cubics of 8 numbers, each of which starts where the one before ends; off by at most `tolerance`. */
export function fit(points, tolerance) {
  const kept = points.filter((point, i) => i === 0 || length(sub(point, points[i - 1])) > 1e-6);
  if (kept.length === 0) return [];
  if (kept.length === 1) kept.push(plus(kept[0], [1e-3, 0])); // a dot
  return fitPart(kept, tangent(kept, 0, 1), tangent(kept, kept.length - 1, -1), tolerance);
}

/** Fit strokes with the smallest tolerance, at least `tolerance`, that needs no more than `most` cubics; null if none does. */
export function fitAll(strokes, tolerance, most) {
  for (let wide = tolerance; wide < 0.5; wide *= 1.5) {
    const fitted = strokes.map((points) => fit(points, wide)).filter((stroke) => stroke.length);
    if (fitted.reduce((sum, stroke) => sum + stroke.length, 0) <= most) return fitted;
  }
  return null;
}

/** The direction at point i, over a few points: freehand input is noisy. */
function tangent(points, i, step) {
  const end = Math.min(points.length - 1, Math.max(0, i + 3 * step));
  const near = unit(sub(points[end], points[i]));
  return length(near) ? near : unit(sub(points[i + step], points[i]));
}

function fitPart(points, start, end, tolerance) {
  const [first, last] = [points[0], points.at(-1)];
  if (points.length === 2) {
    const third = length(sub(last, first)) / 3;
    return [[...first, ...plus(first, start, third), ...plus(last, end, third), ...last]];
  }
  let parameters = chordLengths(points);
  let cubic;
  let worst;
  for (let round = 0; round <= ROUNDS; round++) {
    cubic = leastSquares(points, parameters, start, end);
    worst = farthest(points, parameters, cubic);
    if (worst.error <= tolerance) return [cubic];
    if (worst.error > 4 * tolerance) break; // too far off for the parameters to be at fault
    parameters = parameters.map((t, i) => nearer(cubic, points[i], t));
  }
  const at = worst.index;
  const across = unit(sub(points[Math.max(0, at - 2)], points[Math.min(points.length - 1, at + 2)]));
  const back = length(across) ? across : unit(sub(points[at - 1], points[at]));
  const corner = isCorner(points, at);
  const before = fitPart(points.slice(0, at + 1), start, corner ? tangent(points.slice(0, at + 1), at, -1) : back, tolerance);
  const rest = points.slice(at);
  const after = fitPart(rest, corner ? tangent(rest, 0, 1) : [-back[0], -back[1]], end, tolerance);
  return [...before, ...after];
}

/** Whether the line turns by more than 60 degrees there, so that both parts keep their own direction. */
function isCorner(points, at) {
  const before = unit(sub(points[at], points[Math.max(0, at - 3)]));
  const after = unit(sub(points[Math.min(points.length - 1, at + 3)], points[at]));
  return dot(before, after) < 0.5;
}

function chordLengths(points) {
  const lengths = [0];
  for (let i = 1; i < points.length; i++) lengths.push(lengths[i - 1] + length(sub(points[i], points[i - 1])));
  return lengths.map((value) => value / lengths.at(-1));
}

/** The cubic with these end points and directions that is nearest to the points at their parameters. */
function leastSquares(points, parameters, start, end) {
  const [first, last] = [points[0], points.at(-1)];
  let [c00, c01, c11, x0, x1] = [0, 0, 0, 0, 0];
  points.forEach((point, i) => {
    const t = parameters[i];
    const s = 1 - t;
    const [a, b] = [3 * s * s * t, 3 * s * t * t];
    c00 += a * a;
    c01 += a * b * dot(start, end);
    c11 += b * b;
    const fixed = plus([0, 0], first, s ** 3 + a);
    const rest = sub(point, plus(fixed, last, b + t ** 3));
    x0 += a * dot(start, rest);
    x1 += b * dot(end, rest);
  });
  const determinant = c00 * c11 - c01 * c01;
  const chord = length(sub(last, first));
  let [alpha, beta] = [(x0 * c11 - x1 * c01) / determinant, (c00 * x1 - c01 * x0) / determinant];
  const fine = (value) => value > 1e-3 * chord && value < 10 * (chord + 0.05);
  if (!fine(alpha) || !fine(beta)) [alpha, beta] = [chord / 3, chord / 3]; // Wu and Barsky's heuristic
  return [...first, ...plus(first, start, alpha), ...plus(last, end, beta), ...last];
}

export function pointAt(cubic, t) {
  const s = 1 - t;
  const weights = [s ** 3, 3 * s * s * t, 3 * s * t * t, t ** 3];
  return [0, 1].map((axis) => weights.reduce((sum, weight, i) => sum + weight * cubic[2 * i + axis], 0));
}

/** One step of Newton's method toward the parameter of the nearest point. */
function nearer(cubic, point, t) {
  const s = 1 - t;
  const p = (i) => [cubic[2 * i], cubic[2 * i + 1]];
  const [d0, d1, d2] = [0, 1, 2].map((i) => sub(p(i + 1), p(i)));
  const first = [0, 1].map((axis) => 3 * (s * s * d0[axis] + 2 * s * t * d1[axis] + t * t * d2[axis]));
  const second = [0, 1].map((axis) => 6 * (s * (d1[axis] - d0[axis]) + t * (d2[axis] - d1[axis])));
  const off = sub(pointAt(cubic, t), point);
  const slope = dot(first, first) + dot(off, second);
  return slope > 0 ? Math.min(1, Math.max(0, t - dot(off, first) / slope)) : t;
}

function farthest(points, parameters, cubic) {
  let worst = { error: 0, index: Math.floor(points.length / 2) };
  points.forEach((point, i) => {
    const error = length(sub(pointAt(cubic, parameters[i]), point));
    if (error > worst.error && i > 0 && i < points.length - 1) worst = { error, index: i };
  });
  return worst;
}
