// ONNX Runtime, away from the page's thread: while a network computes, the page still scrolls and paints.
// One request after the other, in the order in which they come.
import * as ort from "../ort/ort.wasm.bundle.min.mjs";

const sessions = new Map();
let last = Promise.resolve();

const actions = {
  async start({ wasm }) {
    ort.env.wasm.numThreads = 1; // more would need headers that plain hosting lacks
    ort.env.wasm.wasmBinary = wasm;
  },
  async open({ name, bytes }) {
    sessions.set(name, await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }));
  },
  async run({ name, feeds }) {
    const inputs = Object.entries(feeds).map(([key, one]) => [key, new ort.Tensor(one.type, one.data, one.dims)]);
    const found = await sessions.get(name).run(Object.fromEntries(inputs));
    const outputs = {};
    for (const [key, { type, dims, data }] of Object.entries(found)) outputs[key] = { type, dims, data };
    return { outputs };
  },
};

self.onmessage = ({ data }) => {
  last = last.then(() => actions[data.action](data)).then(
    (result) => self.postMessage({ id: data.id, result }),
    (error) => self.postMessage({ id: data.id, error: String(error?.message ?? error) }),
  );
};
