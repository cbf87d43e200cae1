// Layers of the networks, on flat Float32Arrays: (B, T, D) is B rows of T tokens of D numbers. As flowkit/models/layers.py and conditioning.py.

import { Arena } from "./matmul.js";

/** The named tensors of a .safetensors file, as {shape, data}; all are float32. */
export function readTensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [start, end] = entry.data_offsets;
    if (entry.dtype !== "F32") throw new Error(`${name} is ${entry.dtype}; expected F32`);
    tensors[name] = { shape: entry.shape, data: new Float32Array(buffer.slice(8 + length + start, 8 + length + end)) };
  }
  return tensors;
}

export class Layers {
  constructor(tensors, options) {
    this.tensors = tensors;
    this.arena = new Arena(options);
    this.packed = {};
  }

  has = (name) => name in this.tensors;
  shape = (name) => this.tensors[name].shape;
  data = (name) => this.tensors[name].data;

  /** x (rows, in) -> (rows, out), by the weight and bias of that name. first: of a matrix, take its rows from there on. */
  linear(name, x, rows, first = 0) {
    const key = first ? `${name}:${first}` : name;
    if (!(key in this.packed)) {
      const [out, size] = this.shape(`${name}.weight`);
      const bias = this.has(`${name}.bias`) ? this.data(`${name}.bias`).subarray(first) : null;
      this.packed[key] = this.arena.pack(this.data(`${name}.weight`).subarray(first * size), bias, out - first, size);
    }
    return this.arena.linear(x, rows, this.packed[key]);
  }

  /** t -> (1, D): sinusoids, then two layers. */
  time(name, t) {
    const frequencies = this.data(`${name}.frequencies`);
    const half = frequencies.length;
    const waves = new Float32Array(2 * half);
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(Math.fround(t) * frequencies[i]); // as rounded in flowkit: phases reach 1000 radians
      waves[i] = Math.cos(angle);
      waves[half + i] = Math.sin(angle);
    }
    return this.linear(`${name}.mlp.2`, silu(this.linear(`${name}.mlp.0`, waves, 1)), 1);
  }

  /** The rows (B, D) of a table. */
  embedding(name, labels) {
    const width = this.shape(name)[1];
    const found = new Float32Array(labels.length * width);
    labels.forEach((label, row) => found.set(this.data(name).subarray(label * width, (label + 1) * width), row * width));
    return found;
  }

  /** x (rows, D) with gain and bias. */
  norm(name, x) {
    const [gain, bias] = [this.data(`${name}.weight`), this.data(`${name}.bias`)];
    const width = gain.length;
    const y = normalized(x, width, 1e-5);
    for (let i = 0; i < y.length; i++) y[i] = y[i] * gain[i % width] + bias[i % width];
    return y;
  }

  /** Self-attention of x (B, T, D). qkNorm: queries and keys of unit RMS. */
  attention(name, x, B, T, heads, qkNorm = false) {
    const width = this.shape(`${name}.out.weight`)[0];
    if (T === 1) return this.linear(`${name}.out`, this.linear(`${name}.qkv`, x, B, 2 * width), B); // the value alone
    const qkv = this.linear(`${name}.qkv`, x, B * T);
    const parts = [0, 1, 2].map((part) => columns(qkv, B * T, 3 * width, part * width, width));
    if (qkNorm) for (const part of parts.slice(0, 2)) unitRms(part, width / heads);
    return this.linear(`${name}.out`, attend(...parts, B, T, T, heads), B * T);
  }

  /** Attention of x (B, T, D) to memory (B, M, D). */
  crossAttention(name, x, memory, B, T, heads) {
    const query = this.linear(`${name}.query`, x, B * T);
    const width = query.length / (B * T);
    const M = memory.length / (B * width);
    const both = this.linear(`${name}.key_value`, memory, B * M);
    const [key, value] = [0, 1].map((part) => columns(both, B * M, 2 * width, part * width, width));
    return this.linear(`${name}.out`, attend(query, key, value, B, T, M, heads), B * T);
  }

  /** linear -> GELU -> linear. */
  geluMlp(first, second, x, rows) {
    return this.linear(second, gelu(this.linear(first, x, rows)), rows);
  }

  swiGlu(name, x, rows) {
    const both = this.linear(`${name}.gate_up`, x, rows);
    const width = both.length / rows / 2;
    const hidden = new Float32Array(rows * width);
    for (let r = 0; r < rows; r++) {
      for (let i = 0; i < width; i++) {
        const gate = both[2 * r * width + i];
        hidden[r * width + i] = (gate / (1 + Math.exp(-gate))) * both[(2 * r + 1) * width + i];
      }
    }
    return this.linear(`${name}.out`, hidden, rows);
  }
}

/** softmax(query key^T / sqrt(d)) value, by heads: (B, T, D), (B, M, D), (B, M, D) -> (B, T, D). */
function attend(query, key, value, B, T, M, heads) {
  const width = query.length / (B * T);
  const size = width / heads;
  const scale = 1 / Math.sqrt(size);
  const out = new Float32Array(query.length);
  const weights = new Float32Array(M);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < heads; h++) {
      for (let t = 0; t < T; t++) {
        const q = (b * T + t) * width + h * size;
        let most = -Infinity;
        for (let m = 0; m < M; m++) {
          const k = (b * M + m) * width + h * size;
          let sum = 0;
          for (let i = 0; i < size; i++) sum += query[q + i] * key[k + i];
          weights[m] = sum * scale;
          if (weights[m] > most) most = weights[m];
        }
        let total = 0;
        for (let m = 0; m < M; m++) total += weights[m] = Math.exp(weights[m] - most);
        for (let m = 0; m < M; m++) {
          const v = (b * M + m) * width + h * size;
          const weight = weights[m] / total;
          for (let i = 0; i < size; i++) out[q + i] += weight * value[v + i];
        }
      }
    }
  }
  return out;
}

/** `count` columns of x (rows, width), from `first` on. */
export function columns(x, rows, width, first, count) {
  const found = new Float32Array(rows * count);
  for (let r = 0; r < rows; r++) found.set(x.subarray(r * width + first, r * width + first + count), r * count);
  return found;
}

function unitRms(x, size) {
  for (let start = 0; start < x.length; start += size) {
    let square = 0;
    for (let i = start; i < start + size; i++) square += x[i] * x[i];
    const scale = 1 / Math.sqrt(square / size + 1e-6);
    for (let i = start; i < start + size; i++) x[i] *= scale;
  }
}

function normalized(x, width, eps) {
  const y = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    let mean = 0;
    for (let i = start; i < start + width; i++) mean += x[i];
    mean /= width;
    let square = 0;
    for (let i = start; i < start + width; i++) square += (x[i] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / width + eps);
    for (let i = start; i < start + width; i++) y[i] = (x[i] - mean) * scale;
  }
  return y;
}

/** Layer norm of h (B, T, D), then times 1 + scale and plus shift: parts of modulation (B, K D), counted from 0. */
export function modulate(h, modulation, shift, scale, B, T) {
  const width = h.length / (B * T);
  const all = modulation.length / B;
  const y = normalized(h, width, 1e-6);
  for (let row = 0; row < B * T; row++) {
    const from = Math.floor(row / T) * all;
    for (let i = 0; i < width; i++) {
      const at = row * width + i;
      y[at] = y[at] * (1 + modulation[from + scale * width + i]) + modulation[from + shift * width + i];
    }
  }
  return y;
}

/** h + gate * branch, for h and branch (B, T, D) and a part of modulation (B, K D). */
export function gated(h, modulation, gate, branch, B, T) {
  const width = h.length / (B * T);
  const all = modulation.length / B;
  const y = new Float32Array(h.length);
  for (let row = 0; row < B * T; row++) {
    const from = Math.floor(row / T) * all + gate * width;
    for (let i = 0; i < width; i++) y[row * width + i] = h[row * width + i] + modulation[from + i] * branch[row * width + i];
  }
  return y;
}

/** a + b; b may be shorter, and is then repeated. */
export function add(a, b) {
  const y = new Float32Array(a.length);
  for (let i = 0; i < a.length; i++) y[i] = a[i] + b[i % b.length];
  return y;
}

/** x (1, D) for each of B rows. */
export function repeated(x, B) {
  const y = new Float32Array(B * x.length);
  for (let b = 0; b < B; b++) y.set(x, b * x.length);
  return y;
}

export const silu = (x) => x.map((value) => value / (1 + Math.exp(-value)));
export const gelu = (x) => x.map((value) => 0.5 * value * (1 + erf(value * Math.SQRT1_2)));
export const selu = (x) =>
  x.map((value) => 1.0507009873554805 * (value > 0 ? value : 1.6732632423543772 * Math.expm1(value)));

/** Abramowitz and Stegun 7.1.26: an error of at most 1.5e-7. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - poly * Math.exp(-x * x));
}
