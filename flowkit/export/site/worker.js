// Loads the model and draws samples, beside the page, so that the page stays responsive. One request at a time: a newer one
// replaces the one before.

import { Flow, normals } from "./flow.js";
import { readTensors } from "./layers.js";
import { openNetwork } from "./networks.js";
import { tidy } from "./sketch.js";

let flow = null;
let newest = 0;
const breath = new MessageChannel(); // lets messages in between two steps, sooner than a timeout would
const waiting = [];
breath.port1.onmessage = () => waiting.shift()?.();
const pause = () => new Promise((go) => (waiting.push(go), breath.port2.postMessage(0)));

onmessage = async ({ data }) => {
  try {
    if (data.kind === "open") await open(data);
    else if (data.kind === "stop") newest = data.id;
    else await sample(data);
  } catch (error) {
    postMessage({ kind: "failed", id: data.id, text: error.message });
  }
};

async function open({ facts }) {
  const response = await fetch(facts.file);
  if (!response.ok) throw new Error(`${facts.file} could not be loaded (${response.status} ${response.statusText})`);
  const bytes = new Uint8Array(facts.bytes);
  let got = 0;
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (got + part.value.length > bytes.length) break;
    bytes.set(part.value, got);
    got += part.value.length;
    postMessage({ kind: "loading", share: got / bytes.length });
  }
  if (got !== bytes.length) throw new Error(`${facts.file} is not the file of this page; export the page again`);
  flow = new Flow(openNetwork(facts.architecture, facts.model_args, readTensors(bytes.buffer)), facts);
  postMessage({ kind: "ready" });
}

/** data: {id, seed, count, labels, scale, solver, steps, given: {known, tokens} or null}. */
async function sample({ id, seed, count, labels, scale, solver, steps, given }) {
  newest = id;
  const { facts, size } = flow;
  const noise = normals(seed, count * size);
  const S = facts.latent_shape[0];
  let again = 0;
  const completion = given && { ...given, resample: facts.resample, noise: () => normals(seed + 2 ** 32 * ++again, count * size) };
  postMessage({ kind: "state", id, step: 0, x: flow.finish(noise, completion) });
  await pause();
  const x = await flow.sample(noise, {
    labels, scale, solver, steps, completion,
    onStep: async (step, total, x) => {
      postMessage({ kind: "state", id, step, total, x: flow.finish(x, completion) });
      await pause();
      return id === newest;
    },
  });
  if (!x) return;
  const pens = facts.kind === "sketch" && facts.shape[1] > 8;
  postMessage({ kind: "done", id, x: pens ? tidy(x, S, completion?.tokens) : x });
}
