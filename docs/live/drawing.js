// From a graph's output to a picture that the page can show: pixels through a colour table, nothing else.

const clamp = (value) => (value < 0 ? 0 : value > 1 ? 1 : value);

function drawn(width, height, paint) { // paint(pixels) fills red, green, blue; opaque already
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d"), area = pen.createImageData(width, height);
  area.data.fill(255);
  paint(area.data);
  pen.putImageData(area, 0, 0);
  return canvas;
}

export function photo({ data, dims }) { // (3, H, W), 0..1
  const [height, width] = dims.slice(-2), size = width * height;
  return drawn(width, height, (pixels) => {
    for (let k = 0; k < size; k++)
      for (let c = 0; c < 3; c++) pixels[4 * k + c] = Math.round(255 * clamp(data[c * size + k]));
  });
}

export function mask({ data, dims }) { // (H, W), 0 or 1
  const [height, width] = dims.slice(-2);
  return drawn(width, height, (pixels) => {
    for (let k = 0; k < width * height; k++) pixels.fill(data[k] ? 255 : 0, 4 * k, 4 * k + 3);
  });
}

// (H, W) through 256 colours, as base64; limits: values of the first and the last
export function coloured({ data, dims }, colours, [low, high]) {
  const table = Uint8Array.from(atob(colours), (one) => one.charCodeAt(0));
  const [height, width] = dims.slice(-2);
  return drawn(width, height, (pixels) => {
    for (let k = 0; k < width * height; k++) {
      const place = 3 * Math.min(Math.floor(256 * clamp((data[k] - low) / Math.max(high - low, 1e-12))), 255);
      for (let c = 0; c < 3; c++) pixels[4 * k + c] = table[place + c];
    }
  });
}

const sized = (picture) => {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: picture.naturalWidth ?? picture.width, height: picture.naturalHeight ?? picture.height });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  Object.assign(pen, { imageSmoothingEnabled: true, imageSmoothingQuality: "high" });
  pen.drawImage(picture, 0, 0);
  return [canvas, pen];
};

// A picture in grey and dark with a map glowing on it; the map may be coarser, and of a larger square that the picture lies in
export function lit(picture, map, colours, top, place = { left: 0, top: 0, columns: map.dims[1], rows: map.dims[0] }) {
  const [canvas, pen] = sized(picture), area = pen.getImageData(0, 0, canvas.width, canvas.height);
  for (let k = 0; k < area.data.length; k += 4)
    area.data.fill(255 * .08 + .55 * (area.data[k] + area.data[k + 1] + area.data[k + 2]) / 3, k, k + 3);
  pen.putImageData(area, 0, 0);
  const glow = coloured({ dims: map.dims, data: map.data.map((one) => .25 + .75 * clamp(one / top)) }, colours, [0, 1]);
  const brush = glow.getContext("2d"), over = brush.getImageData(0, 0, glow.width, glow.height);
  for (let k = 0; k < map.data.length; k++) over.data[4 * k + 3] = 255 * .92 * Math.min(1.6 * clamp(map.data[k] / top), 1);
  brush.putImageData(over, 0, 0);
  pen.drawImage(glow, place.left, place.top, place.columns, place.rows, 0, 0, canvas.width, canvas.height);
  return canvas;
}

// A crisp picture with the paint that makes `after` of `before`, both as the network sees them
export function covered(picture, before, after) {
  const [canvas, pen] = sized(picture), layer = photo(after), brush = layer.getContext("2d"), size = layer.width * layer.height;
  const area = brush.getImageData(0, 0, layer.width, layer.height);
  for (let k = 0; k < size; k++) {
    let most = 0;
    for (let c = 0; c < 3; c++) most = Math.max(most, Math.abs(after.data[c * size + k] - before.data[c * size + k]));
    area.data[4 * k + 3] = 255 * Math.min(1, 4 * most);
  }
  brush.putImageData(area, 0, 0);
  pen.drawImage(layer, 0, 0, canvas.width, canvas.height);
  return canvas;
}

export async function picture(name) { // one of the page's own, as it is
  const found = new Image();
  found.src = new URL(name, import.meta.url).href;
  await found.decode();
  return found;
}

// A photo with a map glowing on it: the higher, the more opaque; `top` has the brightest colour
export function glowing(picture, { data, dims }, colours, top) {
  const low = { dims, data: data.map((one) => .25 + .75 * clamp(one / top)) }, glow = coloured(low, colours, [0, 1]);
  const pen = glow.getContext("2d"), area = pen.getImageData(0, 0, glow.width, glow.height);
  for (let k = 0; k < data.length; k++) area.data[4 * k + 3] = 255 * .7 * clamp(data[k] / top);
  pen.putImageData(area, 0, 0);
  const canvas = photo(picture);
  canvas.getContext("2d").drawImage(glow, 0, 0);
  return canvas;
}

export const source = (canvas) => canvas.toDataURL("image/png");

// A picture as (3, side, side), 0..1; brought to the square where it is another size
export function pixels(picture, side) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: side, height: side });
  const pen = canvas.getContext("2d", { willReadFrequently: true }), size = side * side;
  Object.assign(pen, { imageSmoothingEnabled: true, imageSmoothingQuality: "high" });
  pen.drawImage(picture, 0, 0, side, side);
  const bytes = pen.getImageData(0, 0, side, side).data, data = new Float32Array(3 * size);
  for (let k = 0; k < size; k++) for (let c = 0; c < 3; c++) data[c * size + k] = bytes[4 * k + c] / 255;
  return { dims: [3, side, side], data };
}

export function decoded(name, side) { // one of the page's own pictures
  const picture = new Image();
  picture.src = new URL(name, import.meta.url).href;
  return picture.decode().then(() => pixels(picture, side), (error) => {
    throw new Error(`${name}: can't be loaded (${error.message})`);
  });
}

const known = new Map();

export function stored(name, side) { // the same, decoded once
  if (!known.has(name)) {
    known.set(name, decoded(name, side));
    known.get(name).catch(() => known.delete(name));
  }
  return known.get(name);
}

export async function storedMask(name, side) { // (side, side), 0 or 1
  const { data } = await stored(name, side);
  return { dims: [side, side], data: Uint8Array.from(data.subarray(0, side * side), (one) => one > .5) };
}
