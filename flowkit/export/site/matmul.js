// Products of matrices in WebAssembly SIMD, whose few instructions are assembled here; plain JavaScript where it is missing.

const WIDE = 8; // columns of a panel: two vectors of four
const HIGH = 4; // rows at a time

/** Memory that holds packed weights, and then the operands of one product. */
export class Arena {
  constructor({ simd = true } = {}) {
    this.memory = new WebAssembly.Memory({ initial: 16 });
    this.used = 16;
    this.gemm = plainGemm(this.memory);
    this.simd = false;
    if (simd) {
      try {
        const module = new WebAssembly.Module(assemble());
        this.gemm = new WebAssembly.Instance(module, { e: { m: this.memory } }).exports.gemm;
        this.simd = true;
      } catch {
        // an old browser, or a page that forbids WebAssembly
      }
    }
  }

  reserve(bytes) {
    const missing = this.used + bytes - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / 65536));
  }

  floats(address, count) {
    return new Float32Array(this.memory.buffer, address, count);
  }

  /** Pack weight (out, in) and bias (out) or null: panels of 8 columns, one row of inputs after the other. */
  pack(weight, bias, out, size) {
    const panels = Math.ceil(out / WIDE);
    const bytes = 4 * panels * WIDE * size;
    this.reserve(bytes);
    const packed = this.floats(this.used, panels * WIDE * size);
    for (let o = 0; o < out; o++) {
      const start = Math.floor(o / WIDE) * WIDE * size + (o % WIDE);
      for (let i = 0; i < size; i++) packed[start + i * WIDE] = weight[o * size + i];
    }
    const layer = { address: this.used, bias, out, size, padded: panels * WIDE };
    this.used += bytes;
    return layer;
  }

  /** x (rows, size) -> (rows, out). */
  linear(x, rows, { address, bias, out, size, padded }) {
    const high = Math.ceil(rows / HIGH) * HIGH;
    this.reserve(4 * high * (size + padded));
    const a = this.used;
    const c = a + 4 * high * size;
    this.floats(a, rows * size).set(rows * size === x.length ? x : x.subarray(0, rows * size));
    this.gemm(a, address, c, high, size, padded);
    const found = this.floats(c, high * padded);
    const y = new Float32Array(rows * out);
    for (let r = 0; r < rows; r++) {
      const from = r * padded;
      const to = r * out;
      if (bias) for (let o = 0; o < out; o++) y[to + o] = found[from + o] + bias[o];
      else y.set(found.subarray(from, from + out), to);
    }
    return y;
  }
}

function plainGemm(memory) {
  return (a, b, c, m, k, n) => {
    const all = new Float32Array(memory.buffer);
    [a, b, c] = [a / 4, b / 4, c / 4];
    for (let j = 0; j < n; j += WIDE) {
      for (let i = 0; i < m; i++) {
        for (let o = 0; o < WIDE; o++) {
          let sum = 0;
          for (let l = 0, w = b + j * k + o; l < k; l++, w += WIDE) sum += all[a + i * k + l] * all[w];
          all[c + i * n + j + o] = sum;
        }
      }
    }
  };
}

/** Return the bytes of a module with one function, gemm(a, b, c, m, k, n): c (m, n) = a (m, k) times the packed b. */
function assemble() {
  const leb = (value) => {
    const bytes = [];
    do {
      const rest = value >>> 7;
      bytes.push((value & 127) | (rest ? 128 : 0));
      value = rest;
    } while (value);
    return bytes;
  };
  const signed = (value) => {
    const bytes = [];
    for (;;) {
      const low = value & 127;
      value >>= 7;
      const last = (value === 0 && !(low & 64)) || (value === -1 && low & 64);
      bytes.push(last ? low : low | 128);
      if (last) return bytes;
    }
  };
  const [I32, V128, VOID] = [0x7f, 0x7b, 0x40];
  const get = (local) => [0x20, ...leb(local)];
  const set = (local) => [0x21, ...leb(local)];
  const i32 = (value) => [0x41, ...signed(value)];
  const [ADD, MUL, LESS] = [[0x6a], [0x6c], [0x49]];
  const vector = (code) => [0xfd, ...leb(code)];
  const at = (offset) => [2, ...leb(offset)]; // aligned to 4 bytes
  const load = (offset) => [...vector(0), ...at(offset)];
  const splat = [...vector(9), ...at(0)];
  const store = (offset) => [...vector(11), ...at(offset)];
  const [VADD, VMUL, ZERO] = [vector(0xe4), vector(0xe6), [...vector(12), ...Array(16).fill(0)]];
  const bump = (local, ...by) => [...get(local), ...by.flat(), ...ADD, ...set(local)];
  const loop = (counter, limit, step, ...body) => [
    ...i32(0), ...set(counter), 0x03, VOID, ...body.flat(), ...bump(counter, i32(step)),
    ...get(counter), ...get(limit), ...LESS, 0x0d, 0, 0x0b,
  ];
  // Locals: the parameters, then counters and addresses, then vectors.
  const [a, b, c, m, k, n, i, j, l, row, panel, w, into] = Array(13).keys();
  const rows = [13, 14, 15, 16];
  const sums = [17, 18, 19, 20, 21, 22, 23, 24];
  const [w0, w1, one] = [25, 26, 27];
  const inner = [
    ...get(w), ...load(0), ...set(w0), ...get(w), ...load(16), ...set(w1),
    ...rows.flatMap((address, r) => [
      ...get(address), ...splat, ...set(one),
      ...get(one), ...get(w0), ...VMUL, ...get(sums[2 * r]), ...VADD, ...set(sums[2 * r]),
      ...get(one), ...get(w1), ...VMUL, ...get(sums[2 * r + 1]), ...VADD, ...set(sums[2 * r + 1]),
      ...bump(address, i32(4)),
    ]),
    ...bump(w, i32(32)),
  ];
  const tile = [
    ...sums.flatMap((sum) => [...ZERO, ...set(sum)]),
    ...rows.flatMap((address, r) => [
      ...get(a), ...get(i), ...i32(r), ...ADD, ...get(row), ...MUL, ...ADD, ...set(address),
    ]),
    ...get(panel), ...set(w),
    ...loop(l, k, 1, inner),
    ...rows.flatMap((_, r) => [
      ...get(c), ...get(i), ...i32(r), ...ADD, ...get(n), ...MUL, ...get(j), ...ADD, ...i32(4), ...MUL, ...ADD, ...set(into),
      ...get(into), ...get(sums[2 * r]), ...store(0), ...get(into), ...get(sums[2 * r + 1]), ...store(16),
    ]),
  ];
  const code = [
    ...get(k), ...i32(4), ...MUL, ...set(row), ...get(b), ...set(panel),
    ...loop(j, n, WIDE, loop(i, m, HIGH, tile), bump(panel, get(row), i32(WIDE), MUL)),
    0x0b,
  ];
  const name = (text) => [text.length, ...new TextEncoder().encode(text)];
  const section = (id, ...content) => {
    const bytes = content.flat();
    return [id, ...leb(bytes.length), ...bytes];
  };
  const body = [2, ...leb(11), I32, ...leb(11), V128, ...code];
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, [1, 0x60, 6, I32, I32, I32, I32, I32, I32, 0]),
    ...section(2, [1], name("e"), name("m"), [2, 0, 1]),
    ...section(3, [1, 0]),
    ...section(7, [1], name("gemm"), [0, 0]),
    ...section(10, [1], leb(body.length), body),
  ]);
}
