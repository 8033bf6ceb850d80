// The second engine of the widgets: graphs exported from the library, run by ONNX Runtime. Everything lies beside
// this file; nothing is fetched from elsewhere, and nothing before it is asked for.

const beside = (name) => new URL(name, import.meta.url).href;
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];

export function lacking() { // what a browser must have, in words; empty: all there
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(new Uint8Array(SIMD))) return "WebAssembly with SIMD";
  if (typeof Worker !== "function") return "web workers";
  if (typeof DecompressionStream !== "function") return "DecompressionStream";
  return "";
}

async function unpacked(blob) { // some hosts unpack .gz on the way, others don't: the first bytes tell
  const [a, b] = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  if (a !== 0x1f || b !== 0x8b) return blob.arrayBuffer();
  return new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// A file with its progress: heard(bytes so far). A signal stops it.
export async function download(name, { heard = () => {}, signal } = {}) {
  const answer = await fetch(beside(name), { signal });
  if (!answer.ok) throw new Error(`${name}: the server answers ${answer.status}`);
  const reader = answer.body.getReader(), parts = [];
  let got = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return unpacked(new Blob(parts));
    parts.push(value);
    heard(got += value.length);
  }
}

// A worker with a runtime of its own. The network has one, the small graphs share another: a brush never waits for it.
class Lane {
  constructor(wasm) {
    this.waiting = new Map();
    this.asked = 0;
    this.worker = new Worker(beside("worker.js"), { type: "module" });
    this.worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error) reject(new Error(data.error)); else resolve(data.result);
    };
    this.worker.onerror = (event) => {
      this.broken = new Error(event.message || "the worker can't be started");
      for (const { reject } of this.waiting.values()) reject(this.broken);
    };
    this.started = this.ask("start", { wasm });
  }

  ask(action, words, transfer = []) {
    if (this.broken) return Promise.reject(this.broken);
    return new Promise((resolve, reject) => {
      this.waiting.set(++this.asked, { resolve, reject });
      this.worker.postMessage({ id: this.asked, action, ...words }, transfer);
    });
  }
}

export class Engine extends EventTarget { // says "loaded" whenever a file is there
  constructor(facts) { // facts.json
    super();
    this.facts = facts;
    this.kept = new Map(); // name of a file -> promise of its content, of a graph -> promise of its lane
    this.lanes = new Map();
  }

  missing(names) { return ["runtime", ...names].filter((name) => this.kept.get(name)?.done !== true); }

  bytes(names) { return this.missing(names).reduce((sum, name) => sum + this.facts.files[name].bytes, 0); }

  // Loads files, the runtime with them; heard(share, 0..1) while they come. What failed or was stopped can be tried again.
  async open(names, { heard = () => {}, signal } = {}) {
    const files = this.missing(names), total = this.bytes(names) || 1, got = {};
    await Promise.all(files.map((name) => this.load(name, signal, (bytes) => {
      got[name] = bytes;
      heard(Math.min(Object.values(got).reduce((sum, one) => sum + one, 0) / total, 1));
    })));
  }

  load(name, signal, heard = () => {}) {
    if (!this.kept.has(name)) {
      const promise = this.fetched(name, signal, heard);
      this.kept.set(name, promise);
      promise.then(() => {
        promise.done = true;
        this.dispatchEvent(new Event("loaded"));
      }, () => this.kept.delete(name));
    }
    return this.kept.get(name);
  }

  async fetched(name, signal, heard) {
    const { file } = this.facts.files[name], bytes = await download(file, { heard, signal });
    if (!/\.onnx(\.gz)?$/.test(file)) return bytes;
    const wasm = await this.load("runtime", signal), lane = this.facts.networks.includes(name) ? "network" : "small";
    if (!this.lanes.has(lane) || this.lanes.get(lane).broken) this.lanes.set(lane, new Lane(wasm));
    await this.lanes.get(lane).started;
    await this.lanes.get(lane).ask("open", { name, bytes: new Uint8Array(bytes) }, [bytes]);
    return this.lanes.get(lane);
  }

  // values: name -> a number, or { data, dims }; types are those of the graph. The answer's outputs look the same.
  async run(name, values) {
    const lane = await this.load(name), { inputs } = this.facts.graphs[name], feeds = {};
    for (const [key, { type }] of Object.entries(inputs)) {
      if (!(key in values)) throw new Error(`${name}: no ${key}`);
      const { data, dims } = typeof values[key] === "number" ? { data: [values[key]], dims: [] } : values[key];
      feeds[key] = { type, dims, data: typed(type, data) };
    }
    return (await lane.ask("run", { name, feeds })).outputs;
  }

  arraysOf(name) { return this.facts.arrays[name]; } // their types and shapes

  // Arrays of a file of numbers, by name
  async arrays(name) {
    const bytes = await this.load(name), found = {};
    for (const [key, { dtype, shape, offset }] of Object.entries(this.facts.arrays[name]))
      found[key] = { dims: shape, data: new ARRAYS[dtype](bytes, offset, shape.reduce((a, b) => a * b, 1)) };
    return found;
  }
}

const ARRAYS = { float32: Float32Array, uint8: Uint8Array, int8: Int8Array, int32: Int32Array, int64: BigInt64Array };

function typed(type, data) {
  if (data instanceof ARRAYS[type]) return data;
  return type === "int64" ? BigInt64Array.from(data, (one) => BigInt(one)) : ARRAYS[type].from(data);
}
