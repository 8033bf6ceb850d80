// Judge photos with a file of `memseg export`, in Node.js: npm install onnxruntime-node sharp
// node predict.mjs bottle.onnx PHOTO ...

import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import sharp from "sharp";

// Weights of one side: bilinear, over as many pixels as the shrinking needs.
function weights(from, to) {
  const scale = from / to, reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, k) => {
    const centre = (k + 0.5) * scale, first = Math.max(0, Math.floor(centre - reach + 0.5));
    const last = Math.min(from, Math.floor(centre + reach + 0.5)), found = [];
    for (let x = first; x < last; x++) found.push(Math.max(0, 1 - Math.abs(x + 0.5 - centre) / reach));
    const sum = found.reduce((a, b) => a + b);
    return { first, values: found.map((value) => value / sum) };
  });
}

// One channel, rows first, to another size.
function resize(pixels, width, height, newWidth, newHeight) {
  const across = weights(width, newWidth), down = weights(height, newHeight);
  const narrow = new Float32Array(height * newWidth), small = new Float32Array(newHeight * newWidth);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < newWidth; x++) {
      const { first, values } = across[x];
      narrow[y * newWidth + x] = values.reduce((sum, w, k) => sum + w * pixels[y * width + first + k], 0);
    }
  for (let y = 0; y < newHeight; y++)
    for (let x = 0; x < newWidth; x++) {
      const { first, values } = down[y];
      small[y * newWidth + x] = values.reduce((sum, w, k) => sum + w * narrow[(first + k) * newWidth + x], 0);
    }
  return small;
}

// The metadata that the file carries: name -> text. The runtime has no call for it, so they are read from the file:
// entries (field 14) of the ONNX message, each with a name (field 1) and a value (field 2).
function metadata(bytes) {
  const facts = {}, text = new TextDecoder();
  function number(at) {
    let value = 0, shift = 1;
    for (;; shift *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * shift;
      if (byte < 128) return [value, at];
    }
  }
  function* fields(at, end) { // number of the field, and where its bytes lie
    while (at < end) {
      let key, value;
      [key, at] = number(at);
      [value, at] = number(at);
      const size = key % 8 === 2 ? value : 0; // else a plain number
      yield [Math.floor(key / 8), at, at + size];
      at += size;
    }
  }
  for (const [field, at, end] of fields(0, bytes.length)) {
    if (field !== 14) continue;
    const [name, value] = [...fields(at, end)].map(([, from, to]) => text.decode(bytes.subarray(from, to)));
    facts[name] = value;
  }
  return facts;
}

const [model, ...photos] = process.argv.slice(2);
if (!photos.length) {
  console.error("needs a file of memseg export, and photos");
  process.exit(2);
}
const bytes = readFileSync(model), session = await ort.InferenceSession.create(bytes), facts = metadata(bytes);
const height = Number(facts.height), width = Number(facts.width);
for (const photo of photos) {
  const { data, info } = await sharp(photo).rotate().flatten({ background: "white" }).toColourspace("srgb")
    .raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true });
  const image = new Float32Array(3 * height * width), size = info.width * info.height;
  for (let c = 0; c < 3; c++) {
    const channel = Float32Array.from({ length: size }, (_, k) => data[k * info.channels + c] / 255);
    image.set(resize(channel, info.width, info.height, width, height), c * height * width);
  }
  const answer = await session.run({ image: new ort.Tensor("float32", image, [1, 3, height, width]) });
  const score = answer.score.data[0], defective = score > Number(facts.threshold);
  console.log(`${photo}: ${defective ? "defective" : "good"}: ${score.toFixed(6)}`);
}
