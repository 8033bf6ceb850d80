// A visitor's photo, whatever its size: upright, in the shape it has, in the middle of the network's square.

const MOST = 2 ** 24; // pixels that are read as they are; a larger photo is first made smaller by the browser
const SHOWN = 640; // longer side of the picture that the page keeps to show
const STRIP = 64; // rows that are looked at together: a photo of 12 megapixels is never held as numbers

// Weights of each new pixel on the old ones: PyTorch's bilinear resampling with antialias
function along(before, after) {
  const scale = before / after, reach = Math.max(scale, 1);
  return Array.from({ length: after }, (_, k) => {
    const centre = scale * (k + .5), first = Math.max(Math.trunc(centre - reach + .5), 0);
    const last = Math.min(Math.trunc(centre + reach + .5), before);
    const weights = Array.from({ length: last - first }, (_, j) => Math.max(1 - Math.abs((j + first - centre + .5) / reach), 0));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: Float32Array.from(weights, (one) => one / sum) };
  });
}

// An image of width x height as (3, rows, columns), 0..1; pixels(top, rows) gives red, green, blue, opacity of some rows
export async function resized(width, height, columns, rows, pixels) {
  const across = along(width, columns), down = along(height, rows), size = rows * columns, data = new Float32Array(3 * size);
  const line = new Float32Array(3 * columns);
  let waiting = 0; // the first new row that isn't complete
  for (let top = 0; top < height; top += STRIP) {
    const count = Math.min(STRIP, height - top), bytes = pixels(top, count);
    for (let y = top; y < top + count; y++) {
      const start = 4 * width * (y - top);
      across.forEach(({ first, weights }, x) => {
        let red = 0, green = 0, blue = 0;
        for (let j = 0, at = start + 4 * first; j < weights.length; j++, at += 4) {
          red += weights[j] * bytes[at];
          green += weights[j] * bytes[at + 1];
          blue += weights[j] * bytes[at + 2];
        }
        line[x] = red; line[columns + x] = green; line[2 * columns + x] = blue;
      });
      while (waiting < rows && down[waiting].first + down[waiting].weights.length <= y) waiting++;
      for (let row = waiting; row < rows && down[row].first <= y; row++) {
        const weight = down[row].weights[y - down[row].first] / 255;
        for (let c = 0; c < 3; c++)
          for (let x = 0; x < columns; x++) data[c * size + row * columns + x] += weight * line[c * columns + x];
      }
    }
    if (top % (16 * STRIP) === 0) await new Promise((done) => { setTimeout(done); }); // the page stays alive
  }
  return { dims: [3, rows, columns], data };
}

// In the middle of a square, the rest in the photo's mean colour; and where it lies there
export function letterboxed({ dims: [, rows, columns], data }, side) {
  const top = Math.floor((side - rows) / 2), left = Math.floor((side - columns) / 2), size = rows * columns;
  const square = new Float32Array(3 * side * side);
  for (let c = 0; c < 3; c++) {
    const part = data.subarray(c * size, (c + 1) * size), mean = part.reduce((a, b) => a + b, 0) / size;
    square.fill(mean, c * side * side, (c + 1) * side * side);
    for (let y = 0; y < rows; y++)
      square.set(part.subarray(y * columns, (y + 1) * columns), (c * side + top + y) * side + left);
  }
  return { image: { dims: [3, side, side], data: square }, place: { top, left, rows, columns } };
}

function canvas(width, height) {
  const made = Object.assign(document.createElement("canvas"), { width, height });
  return [made, made.getContext("2d", { willReadFrequently: true })];
}

async function opened(file) { // upright, as its EXIF says; its numbers as they are, as the library reads them: phones write other colours than sRGB
  const whole = await createImageBitmap(file, { colorSpaceConversion: "none" }), share = Math.sqrt(MOST / (whole.width * whole.height));
  if (share >= 1) return whole;
  const smaller = await createImageBitmap(whole, { resizeWidth: Math.floor(share * whole.width),
    resizeHeight: Math.floor(share * whole.height), resizeQuality: "high" });
  whole.close();
  return smaller;
}

// { name, width, height, image, place, picture }: what the network sees, where the photo lies in it, what the page shows
export async function read(file, side) {
  let bitmap;
  try { bitmap = await opened(file); } catch {
    throw new Error(`${file.name}: this browser can't read it as an image; choose a PNG, JPEG or WebP file`);
  }
  const { width, height } = bitmap, share = side / Math.max(width, height);
  const columns = Math.max(1, Math.round(share * width)), rows = Math.max(1, Math.round(share * height));
  const [, pen] = canvas(width, STRIP);
  const small = await resized(width, height, columns, rows, (top, count) => {
    pen.drawImage(bitmap, 0, -top);
    return pen.getImageData(0, 0, width, count).data;
  });
  const shown = Math.min(1, SHOWN / Math.max(width, height));
  const [picture, brush] = canvas(Math.round(shown * width), Math.round(shown * height));
  brush.imageSmoothingQuality = "high";
  brush.drawImage(bitmap, 0, 0, picture.width, picture.height);
  bitmap.close();
  return { name: file.name, width, height, picture, ...letterboxed(small, side) };
}
