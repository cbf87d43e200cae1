// From noise to samples: solvers, guidance and completion, as in flowkit/flow and flowkit/sampling. t = 0 is noise, t = 1 data.

/** Runge-Kutta methods: nodes, stages and weights of their tableaus. */
export const TABLEAUS = {
  euler: [[0], [[]], [1]],
  midpoint: [[0, 0.5], [[], [0.5]], [0, 1]],
  heun: [[0, 1], [[], [1]], [0.5, 0.5]],
  rk4: [[0, 0.5, 0.5, 1], [[], [0.5], [0, 0.5], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]],
};

export class Flow {
  /** network: see networks.js. facts: the content of model.json. */
  constructor(network, facts) {
    this.network = network;
    this.facts = facts;
    this.size = facts.latent_shape.reduce((a, b) => a * b);
  }

  /**
   * Draw samples from noise (B, ...), and return them in the data's units; `told`: labels, one number per row, or null.
   *
   * completion: {known: (B, ...) in the data's units, tokens: (B, S) of 0 and 1, resample, noise: (number) => (B, ...)}.
   * onStep(steps done, steps, x) is called after every step, with x as the network sees it. It may return a promise, and
   * stops the sampling by resolving to false; the result is then null.
   */
  async sample(noise, { labels = null, scale, solver, steps, completion = null, onStep = () => true } = {}) {
    const { facts } = this;
    scale ??= facts.guidance_scale;
    solver ??= facts.solver;
    const B = noise.length / this.size;
    const edges = stepTimes(facts.grid, steps ?? facts.steps);
    const trained = completion && facts.completes;
    const told = { labels, given: null };
    let velocity = (x, t, span = 0) => this.velocity(x, t, { ...told, span }, scale, B);
    let x = Float32Array.from(noise);
    let done = 0;
    const tell = (x) => onStep(++done, edges.length - 1, x);
    if (completion) {
      const given = spread(completion.tokens, x.length);
      const known = this.normalize(completion.known);
      if (trained) {
        told.given = completion.tokens;
        velocity = held(velocity, given, known);
      } else {
        x = await this.resampled(velocity, x, edges, solver, given, known, completion, tell);
        return x && this.finish(x, completion);
      }
    } else if (facts.completes) told.given = new Uint8Array(B * facts.latent_shape[0]);
    if (solver === "mean_flow") {
      for (let step = 0; step + 1 < edges.length; step++) {
        const span = edges[step + 1] - edges[step];
        x = moved(x, [[span, velocity(x, edges[step], span)]]);
        if ((await tell(x)) === false) return null;
      }
    } else if (facts.prediction === "velocity") x = await rungeKutta(solver, velocity, x, edges, tell);
    else x = await this.straight(solver, velocity, x, edges, tell);
    return x && this.finish(x, completion);
  }

  /** The velocity at x, t: v_null + scale (v - v_null), from one call on twice the rows, or as the network itself guides. */
  velocity(x, t, told, scale, B) {
    if (this.facts.guidance_max > 1) {
      const guidance = told.labels === null ? 1 : scale;
      return this.converted(this.network(x, Math.fround(t), { ...told, guidance }, B), x, t);
    }
    if (scale === 1 || told.labels === null || told.labels.every((label) => label === this.null)) {
      return this.converted(this.network(x, Math.fround(t), told, B), x, t);
    }
    const twice = new Float32Array(2 * x.length);
    twice.set(x);
    twice.set(x, x.length);
    const labels = [...told.labels, ...Array(B).fill(this.null)];
    const given = told.given && Uint8Array.from([...told.given, ...told.given]);
    const both = this.converted(this.network(twice, Math.fround(t), { ...told, labels, given }, 2 * B), twice, t);
    const v = new Float32Array(x.length);
    for (let i = 0; i < v.length; i++) v[i] = both[x.length + i] + scale * (both[i] - both[x.length + i]);
    return v;
  }

  get null() {
    return this.facts.class_names.length;
  }

  /** The velocity from what the network predicts. */
  converted(output, x, t) {
    if (this.facts.prediction === "velocity") return output;
    const [alpha, sigma, dAlpha, dSigma] = coefficients(this.facts.path, t);
    const data = this.facts.prediction === "data";
    const [below, above] = data ? [sigma, dSigma] : [alpha, dAlpha];
    const ratio = below > 1e-6 ? above / below : 0;
    const factor = data ? dAlpha - ratio * alpha : dSigma - ratio * sigma;
    return combined(ratio, x, factor, output);
  }

  /** Solve in z = x / (alpha + sigma) over tau = alpha / (alpha + sigma), where the path is a line; the end is predicted data. */
  async straight(solver, velocity, x, edges, tell) {
    const { path } = this.facts;
    const ends = edges.map((t) => coefficients(path, t));
    const taus = ends.map(([alpha, sigma]) => alpha / (alpha + sigma));
    const slope = (z, tau) => {
      const t = timeOf(path, tau);
      const [alpha, sigma, dAlpha, dSigma] = coefficients(path, t);
      const x = z.map((value) => (alpha + sigma) * value);
      const wronskian = sigma * dAlpha - dSigma * alpha;
      return combined(-(dSigma + dAlpha) / wronskian, x, (sigma + alpha) / wronskian, velocity(x, t));
    };
    let step = 0;
    const inX = (z) => z.map((value) => (ends[step][0] + ends[step][1]) * value);
    const inside = (z) => (step++, tell(inX(z)));
    let z = x.map((value) => value / (ends[0][0] + ends[0][1]));
    if (edges.length > 2) z = await rungeKutta(solver, slope, z, taus.slice(0, -1), inside);
    if (!z) return null;
    const parts = TABLEAUS[solver][0].length;
    const [from, to] = taus.slice(-2);
    const last = Array.from({ length: parts + 1 }, (_, i) => from + ((to - from) * i) / parts);
    z = await rungeKutta("euler", slope, z, last, () => true);
    step = edges.length - 1;
    x = inX(z);
    return (await tell(x)) === false ? null : x;
  }

  /** Completion without training: given tokens follow their path, and each step is repeated from new noise (RePaint). */
  async resampled(velocity, x, edges, solver, given, known, { resample = 8, noise }, tell) {
    const { path } = this.facts;
    let base = Float32Array.from(x);
    let drawn = 0;
    for (let step = 0; step + 1 < edges.length; step++) {
      const [a, b] = [edges[step], edges[step + 1]];
      const [[alphaA, sigmaA], [alphaB, sigmaB]] = [coefficients(path, a), coefficients(path, b)];
      for (let again = 0; again < resample; again++) {
        const after = await rungeKutta(solver, held(velocity, given, known, base, path), x, [a, b], () => true);
        if (again === resample - 1) {
          x = after;
          break;
        }
        const ratio = alphaA / alphaB;
        const level = Math.sqrt(Math.max(0, sigmaA ** 2 - (ratio * sigmaB) ** 2));
        x = combined(ratio, after, level, noise(drawn++));
        base = combined(1 / sigmaA, x, -alphaA / sigmaA, known);
      }
      if ((await tell(x)) === false) return null;
    }
    return x;
  }

  /** x (B, ...) in the data's units -> as the network sees it. */
  normalize = (x) => this.scaled(x, (value, scale, shift) => (value - shift) / scale);
  denormalize = (x) => this.scaled(x, (value, scale, shift) => value * scale + shift);

  scaled(x, change) {
    const { scale, shift } = this.facts.normalizer;
    const [scales, shifts] = [[scale].flat(3), [shift].flat(3)];
    return Float32Array.from(x, (value, i) => change(value, scales[i % scales.length], shifts[i % shifts.length]));
  }

  /** Samples in the data's units, with the given tokens exactly as they are. */
  finish(x, completion) {
    const found = this.denormalize(x);
    if (!completion) return found;
    const given = spread(completion.tokens, x.length);
    return found.map((value, i) => (given[i] ? completion.known[i] : value));
  }
}

/** A velocity under which given elements stay at `known`, or with `noise`, on their path from it. */
function held(velocity, given, known, noise = null, path = null) {
  return (x, t, span) => {
    const [alpha, sigma, dAlpha, dSigma] = noise ? coefficients(path, t) : [1, 0, 0, 0];
    const at = x.map((value, i) => (given[i] ? alpha * known[i] + (noise ? sigma * noise[i] : 0) : value));
    return velocity(at, t, span).map((value, i) => (given[i] ? dAlpha * known[i] + (noise ? dSigma * noise[i] : 0) : value));
  };
}

/** tokens (B, S) as a mask of the elements of x. */
function spread(tokens, length) {
  const each = length / tokens.length;
  return Uint8Array.from({ length }, (_, i) => tokens[Math.floor(i / each)]);
}

/** Follow dx/dt = slope(x, t) along the times `edges`; null if `tell` stops it. */
export async function rungeKutta(solver, slope, x, edges, tell) {
  const [nodes, stages, weights] = TABLEAUS[solver];
  for (let step = 0; step + 1 < edges.length; step++) {
    const [a, b] = [edges[step], edges[step + 1]];
    const slopes = [];
    nodes.forEach((node, stage) => {
      const at = moved(x, stages[stage].map((weight, i) => [(b - a) * weight, slopes[i]]));
      slopes.push(slope(at, (1 - node) * a + node * b));
    });
    x = moved(x, weights.map((weight, i) => [(b - a) * weight, slopes[i]]));
    if ((await tell(x)) === false) return null;
  }
  return x;
}

/** x plus multiples of slopes. */
function moved(x, terms) {
  const y = Float32Array.from(x);
  for (const [factor, slope] of terms) {
    if (factor) for (let i = 0; i < y.length; i++) y[i] += factor * slope[i];
  }
  return y;
}

/** a x + b y. */
function combined(a, x, b, y) {
  const z = new Float32Array(x.length);
  for (let i = 0; i < z.length; i++) z[i] = a * x[i] + b * y[i];
  return z;
}

/** The times of a grid of steps, from 0 to 1. */
export function stepTimes(grid, steps) {
  const times = Array.from({ length: steps + 1 }, (_, step) => step / steps);
  if (grid.name === "shifted") return times.map((t) => t / (t + grid.shift * (1 - t)));
  if (grid.name === "power") return times.map((t) => t ** grid.exponent);
  return grid.name === "custom" ? grid.times : times;
}

/** alpha, sigma and their derivatives of a Gaussian path x_t = alpha data + sigma noise. */
export function coefficients(path, t) {
  if (path.name === "cosine") {
    const quarter = Math.PI / 2;
    const [sine, cosine] = [Math.sin(t * quarter), Math.max(Math.cos(t * quarter), 0)];
    return [sine, cosine, quarter * cosine, -quarter * sine];
  }
  if (path.name === "vp") {
    const s = 1 - t;
    const slope = path.beta_max - path.beta_min;
    const logAlpha = -s * (0.25 * slope * s + 0.5 * path.beta_min);
    const [alpha, sigma] = [Math.exp(logAlpha), Math.sqrt(-Math.expm1(2 * logAlpha))];
    const dAlpha = alpha * 0.5 * (slope * s + path.beta_min);
    return [alpha, sigma, dAlpha, (-alpha * dAlpha) / Math.max(sigma, 0.01)];
  }
  const slope = 1 - path.sigma_min; // linear
  return [t, 1 - slope * t, 1, -slope];
}

/** The time at which alpha / (alpha + sigma) is tau. */
function timeOf(path, tau) {
  if (path.name === "cosine") return Math.atan2(tau, 1 - tau) * (2 / Math.PI);
  if (path.name === "vp") {
    const cost = 0.5 * Math.log1p(((1 - tau) / tau) ** 2);
    const [low, slope] = [0.5 * path.beta_min, path.beta_max - path.beta_min];
    return 1 - (2 * cost) / (low + Math.sqrt(low ** 2 + slope * cost));
  }
  return tau / (1 - path.sigma_min * tau);
}

/** Unit normals that depend on the seed alone (sfc32, Box-Muller). */
export function normals(seed, count) {
  let [a, b, c, d] = [0x9e3779b9, seed >>> 0, Math.floor(seed / 4294967296) >>> 0, 1];
  const uniform = () => {
    const t = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + t) | 0;
    return ((t >>> 0) + 0.5) / 4294967296;
  };
  for (let warm = 0; warm < 15; warm++) uniform();
  const found = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const [radius, angle] = [Math.sqrt(-2 * Math.log(uniform())), 2 * Math.PI * uniform()];
    found[i] = radius * Math.cos(angle);
    if (i + 1 < count) found[i + 1] = radius * Math.sin(angle);
  }
  return found;
}
