// The networks of flowkit, by their names in a recipe: network(x, t, told, B) -> the output, of x's size.
//
// x: (B, ...) flat. t: one time for all rows. told: {labels: one number per row, or null; span; guidance; given: (B, S) of 0 and 1, or null}.
// The label after the last class is that of rows without a class.

import { add, columns, gated, Layers, modulate, repeated, selu, silu } from "./layers.js";

export function openNetwork(architecture, args, tensors, options) {
  const network = new NETWORKS[architecture](new Layers(tensors, options), args);
  return (x, t, told, B) => network.forward(x, t, told, B);
}

class Network {
  constructor(layers, args) {
    this.layers = layers;
    this.args = args;
  }

  labels(told, B) {
    return told.labels ?? Array(B).fill(this.args.num_classes);
  }

  time(t, told) {
    let time = this.layers.time("time", t);
    if (this.args.two_times) time = add(time, this.layers.time("span", told.span ?? 0));
    return this.args.guided ? add(time, this.layers.time("guidance", 1 - 1 / (told.guidance ?? 1))) : time;
  }

  /** Time and class, embedded and summed: (B, D). */
  conditions(t, told, B) {
    const time = repeated(this.time(t, told), B);
    if (!this.args.num_classes) return time;
    const table = this.layers.embedding("class_embedding.table.weight", this.labels(told, B));
    return add(time, this.layers.linear("class_mlp.2", silu(this.layers.linear("class_mlp.0", table, B)), B));
  }

  /** Strokes (B, S, stroke_dim) -> tokens (B, S, D), with their positions and the mark of given ones. */
  strokes(x, told, B) {
    const S = this.args.num_strokes;
    const seen = this.args.neighbors ? withNeighbors(x, B, S) : x;
    const h = add(this.layers.linear("stroke_in", seen, B * S), this.layers.data("position"));
    if (!told.given) return h;
    const mark = this.layers.data("given");
    for (let row = 0; row < B * S; row++) {
      if (told.given[row]) for (let i = 0; i < mark.length; i++) h[row * mark.length + i] += mark[i];
    }
    return h;
  }
}

/** Each token of x (B, S, D) after the one before it and before the one after it, zeros at the ends: (B, S, 3 D). */
function withNeighbors(x, B, S) {
  const D = x.length / (B * S);
  const seen = new Float32Array(3 * x.length);
  for (let row = 0; row < B * S; row++) {
    for (const place of [-1, 0, 1]) {
      const at = (row % S) + place;
      if (at < 0 || at >= S) continue;
      const start = (row + place) * D;
      seen.set(x.slice(start, start + D), (3 * row + place + 1) * D);
    }
  }
  return seen;
}

class BezierSketchDiT extends Network {
  forward(x, t, told, B) {
    const { layers, args } = this;
    const S = args.num_strokes;
    const condition = silu(this.conditions(t, told, B));
    let h = this.strokes(x, told, B);
    for (let number = 0; number < args.num_layers; number++) {
      const name = `blocks.${number}`;
      const modulation = layers.linear(`${name}.modulation`, condition, B);
      const attended = layers.attention(`${name}.attention`, modulate(h, modulation, 0, 1, B, S), B, S, args.num_heads);
      h = gated(h, modulation, 2, attended, B, S);
      h = gated(h, modulation, 5, layers.swiGlu(`${name}.mlp`, modulate(h, modulation, 3, 4, B, S), B * S), B, S);
    }
    return layers.linear("stroke_out", modulate(h, layers.linear("out_modulation", condition, B), 0, 1, B, S), B * S);
  }
}

class BezierSketchTransformer extends Network {
  forward(x, t, told, B) {
    const { layers, args } = this;
    const S = args.num_strokes;
    const width = layers.shape("position")[1];
    const heads = args.num_heads;
    let memory = null;
    if (args.num_classes) {
      memory = layers.linear("class_tokens", layers.embedding("class_embedding.table.weight", this.labels(told, B)), B);
    }
    const time = this.time(t, told);
    const strokes = this.strokes(x, told, B);
    const T = S + 1; // the time is the first token
    let h = new Float32Array(B * T * width);
    for (let b = 0; b < B; b++) {
      h.set(time, b * T * width);
      h.set(strokes.subarray(b * S * width, (b + 1) * S * width), (b * T + 1) * width);
    }
    for (let number = 0; number < args.num_layers; number++) {
      const name = `blocks.${number}`;
      h = add(h, layers.attention(`${name}.self_attention`, layers.norm(`${name}.norm_self`, h), B, T, heads));
      if (memory) {
        h = add(h, layers.crossAttention(`${name}.cross_attention`, layers.norm(`${name}.norm_cross`, h), memory, B, T, heads));
      }
      h = add(h, layers.geluMlp(`${name}.mlp.0`, `${name}.mlp.2`, layers.norm(`${name}.norm_mlp`, h), B * T));
    }
    return layers.linear("stroke_out", layers.norm("norm", columns(h, B, T * width, width, S * width)), B * S);
  }
}

class DiT extends Network {
  forward(x, t, told, B) {
    const { layers, args } = this;
    const T = args.num_tokens;
    const condition = silu(this.conditions(t, told, B));
    let h = layers.linear("token_in", x, B * T);
    if (T > 1) h = add(h, layers.data("position"));
    for (let number = 0; number < args.num_layers; number++) {
      const name = `blocks.${number}`;
      const modulation = layers.linear(`${name}.modulation`, condition, B);
      const moved = modulate(h, modulation, 0, 1, B, T);
      h = gated(h, modulation, 2, layers.attention(`${name}.attention`, moved, B, T, args.num_heads, true), B, T);
      const hidden = layers.geluMlp(`${name}.mlp.0`, `${name}.mlp.2`, modulate(h, modulation, 3, 4, B, T), B * T);
      h = gated(h, modulation, 5, hidden, B, T);
    }
    return layers.linear("token_out", modulate(h, layers.linear("out_modulation", condition, B), 0, 1, B, T), B * T);
  }
}

class SimpleMLP extends Network {
  forward(x, t, told, B) {
    const condition = this.conditions(t, told, B);
    let h = beside(x, condition, B);
    const last = this.args.num_layers - 1;
    for (let number = 0; number < last; number++) h = silu(this.layers.linear(`layers.${3 * number}`, h, B));
    return this.layers.linear(`layers.${3 * last}`, h, B);
  }
}

class PointNetwork extends Network {
  input(x, t, told, B) {
    const times = this.args.two_times ? [t, told.span ?? 0] : [t];
    if (this.args.guided) times.push(1 - 1 / (told.guidance ?? 1));
    const h = this.layers.linear("input.linear", beside(x, repeated(Float32Array.from(times), B), B), B);
    return this.args.num_classes ? add(h, this.layers.embedding("input.classes.weight", this.labels(told, B))) : h;
  }
}

class SeluMLP extends PointNetwork {
  forward(x, t, told, B) {
    let h = this.input(x, t, told, B);
    for (let number = 0; number < this.args.num_layers; number++) {
      h = this.layers.linear(`layers.${2 * number + 1}`, selu(h), B);
    }
    return h;
  }
}

class ResidualMLP extends PointNetwork {
  forward(x, t, told, B) {
    let h = this.input(x, t, told, B);
    for (let number = 0; number < this.args.num_layers; number++) {
      h = add(h, this.layers.geluMlp(`blocks.${number}.0`, `blocks.${number}.2`, h, B));
    }
    return this.layers.linear("out", h, B);
  }
}

/** a (B, D), b (B, E) -> (B, D + E). */
function beside(a, b, B) {
  const [D, E] = [a.length / B, b.length / B];
  const y = new Float32Array(a.length + b.length);
  for (let row = 0; row < B; row++) {
    y.set(a.subarray(row * D, (row + 1) * D), row * (D + E));
    y.set(b.subarray(row * E, (row + 1) * E), row * (D + E) + D);
  }
  return y;
}

export const NETWORKS = {
  bezier_sketch_dit: BezierSketchDiT,
  bezier_sketch_transformer: BezierSketchTransformer,
  mlp: SimpleMLP,
  dit: DiT,
  selu_mlp: SeluMLP,
  residual_mlp: ResidualMLP,
};
