// Your own photos: good ones become a memory, made in the page; then each photo to judge gets a heatmap, a score and a region.
import { element } from "./controls.js";
import { lit } from "./drawing.js";
import { read } from "./photo.js";
import { pieces } from "./regions.js";
import { percent } from "./words.js";

const LEAST = 2, LEVELS = [1, 2, 3];
const all = (numbers, start, step) => numbers.reduce(step, start);
const mean = (numbers) => all(numbers, 0, (a, b) => a + b) / numbers.length;

// As the library's false_alarm_threshold. reach[n]: how many deviations above the mean of n good scores it lies; lines[n]: how many of
// the highest only count as such, and the line in place of the hazard
export function threshold(scores, rate, reach, lines) {
  const logit = (one) => { const p = Math.min(Math.max(one, 1e-6), 1 - 1e-6); return Math.log(p / (1 - p)); };
  const sorted = [...scores].sort((a, b) => a - b), odds = sorted.map(logit), count = odds.length, [top, start, slope] = lines[count];
  const kept = odds.slice(0, count - top), last = kept.at(-1), some = kept.length, weight = some + slope * top;
  const centre = (all(kept, 0, (a, b) => a + b) + slope * top * last) / weight, pull = start * top * (last - centre);
  const squares = all(kept, 0, (sum, one) => sum + (one - centre) ** 2) + slope * top * (last - centre) ** 2;
  const spread = (pull + Math.sqrt(pull ** 2 + 4 * some * squares)) / (2 * Math.sqrt(some * (some - 1)));
  const bound = centre + spread * start * top / weight + reach[count] * Math.max(spread, 1e-3);
  const rank = Math.ceil((count + 1) * (1 - rate) - 1e-9);
  return rank <= count && odds[rank - 1] <= bound ? sorted[rank - 1] : 1 / (1 + Math.exp(-bound));
}

// Twice the usual difference of good photos to the nearest other one, as the library's unit_difference
function units(usual, spread) {
  const most = mean(usual), least = .01 * mean(spread);
  return Float32Array.from(usual, (one) => 2 * Math.max(one, .1 * most, least));
}

// Pixels from the threshold on that touch each other, the largest piece; inside the photo only
function largestRegion({ data, dims: [, width] }, { top, left, rows, columns }, limit) {
  const found = pieces(rows, columns, (y, x) => data[(top + y) * width + left + x] >= limit);
  return found.reduce((best, one) => (best && best.area >= one.area ? best : one), null);
}

export default class Photos {
  constructor(panel) {
    Object.assign(this, { panel, good: [], judged: [], memory: null, limit: null });
  }

  placed() { // two places for files, two buttons, and the one that loads: before what is found
    const { root, loader } = this.panel, body = root.querySelector(".live-body");
    this.said = element("p", { className: "live-hint", role: "status" });
    this.boxes = { good: this.drop("good", "1. Good photos", "Ten or so, each of another good piece, all taken alike"),
      judged: this.drop("judged", "2. Photos to judge", "One or more, taken in the same way") };
    const example = element("button", { type: "button", className: "live-button" }, "Take an example");
    const again = element("button", { type: "button", className: "live-button" }, "Start again");
    example.addEventListener("click", () => this.example());
    again.addEventListener("click", () => this.forget());
    this.slider = element("input", { type: "range", id: "own-threshold", min: 0, max: 1, step: .001 });
    this.shown = element("output", { className: "live-value", htmlFor: "own-threshold" });
    this.row = element("div", { className: "live-row own-threshold", hidden: true },
      element("label", { htmlFor: "own-threshold" }, "threshold"), this.slider, this.shown);
    this.slider.addEventListener("input", () => { this.limit = Number(this.slider.value); this.present(); });
    body.before(element("div", { className: "own-drops" }, this.boxes.good.box, this.boxes.judged.box),
      element("div", { className: "live-buttons" }, example, again), this.said, loader.box, this.row);
    this.panel.controls.box.hidden = true;
    this.say();
  }

  drop(kind, title, hint) {
    const id = `own-${kind}`, list = element("ul", { className: "own-thumbs" });
    const input = element("input", { type: "file", id, accept: "image/*", multiple: true });
    const box = element("div", { className: "own-drop" }, element("label", { htmlFor: id }, title),
      element("p", { className: "live-hint" }, hint), input, list);
    input.addEventListener("change", () => { this.add(kind, [...input.files]).then(() => { input.value = ""; }); });
    for (const name of ["dragenter", "dragover"])
      box.addEventListener(name, (event) => { event.preventDefault(); box.classList.add("over"); });
    for (const name of ["dragleave", "drop"]) box.addEventListener(name, () => box.classList.remove("over"));
    box.addEventListener("drop", (event) => { event.preventDefault(); this.add(kind, [...event.dataTransfer.files]); });
    return { box, list };
  }

  // Reads files one after the other: no two large photos are open at once
  add(kind, files) {
    this.reading = (this.reading ?? Promise.resolve()).then(() => this.take(kind, files)).then(() => {
      this.say();
      if (this.panel.loaded && this.ready) this.panel.refresh();
    });
    return this.reading;
  }

  async take(kind, files) {
    const { facts } = this.panel.engine, most = facts.photos.most;
    this.trouble = [];
    for (const [k, file] of files.entries()) {
      if (kind === "good" && this.good.length === most) {
        this.trouble.push(`The first ${most} good photos are taken; that is as many as the network remembers.`);
        break;
      }
      this.said.textContent = `Reading ${file.name}, ${k + 1} of ${files.length} ...`;
      try {
        const photo = await read(file, facts.size);
        this[kind].push(photo);
        if (kind === "good") this.memory = null;
        this.boxes[kind].list.append(element("li", {}, thumbnail(photo)));
      } catch (error) { this.trouble.push(`${error.message}.`); }
    }
  }

  get ready() { return this.good.length >= LEAST && this.judged.length > 0; }

  say() { // what is there, what is missing, what to press
    const { good, judged, panel } = this, shapes = [...good, ...judged].map(({ width, height }) => width / height);
    const words = [...this.trouble ?? []];
    if (Math.max(...shapes) > 1.1 * Math.min(...shapes))
      words.push("The photos differ in shape: this works best where all are taken alike.");
    if (good.length < LEAST) words.push(good.length ? "One more good photo, at least." : "");
    else if (!judged.length) words.push("Now a photo to judge.");
    this.said.textContent = words.filter(Boolean).join(" ");
    panel.loader.verb = "Remember and judge";
    panel.loader.start.disabled = !this.ready;
    panel.loader.say();
  }

  async example() { // ten good photos of an embedded product, a good one and one with a defect
    const { facts } = this.panel.engine, [product, { explorer }] = Object.entries(facts.products)[0];
    this.forget();
    const fetched = async (path, name) => new File([await (await fetch(new URL(`assets/${path}`, import.meta.url))).blob()], name);
    const tests = ["good 0", explorer.tests[0].name].map((one) => explorer.tests.find(({ name }) => name === one));
    await this.add("good", await Promise.all(explorer.samples.map((path, k) => fetched(path, `good ${product} ${k}`))));
    await this.add("judged", await Promise.all(tests.map(({ image, name }) => fetched(image, `${product}, ${name}`))));
  }

  forget() {
    Object.assign(this, { good: [], judged: [], memory: null, trouble: [] });
    for (const { list } of Object.values(this.boxes)) list.replaceChildren();
    this.row.hidden = true;
    this.panel.show([], this.panel.facts.status);
    this.say();
  }

  network(image, memory, forced = -1) { return this.panel.engine.run("network", { image, forced, ...memory }); }

  blank() { // a memory of nothing, for those who only want the features of an image
    const { inputs } = this.panel.engine.facts.graphs.network, made = {};
    for (const k of LEVELS) {
      const dims = [2, ...inputs[`memory${k}`].shape.slice(1)], ones = { dims: [dims[1]], data: new Float32Array(dims[1]).fill(1) };
      made[`memory${k}`] = { dims, data: new Uint8Array(all(dims, 1, (a, b) => a * b)) };
      for (const name of ["steps", "spread", "unit"]) made[`${name}${k}`] = ones;
    }
    return made;
  }

  // Features, the memory in 8 bits a number, its units; then each good photo judged by the others, for the threshold
  async remember() {
    const { good: list, panel: { engine, model } } = this, good = [...list], count = good.length, blank = this.blank(), layers = {}, usual = {};
    const say = (k) => model.set("status", `Remembering good photos: ${Math.floor(100 * k / (2 * count))}% ...`);
    for (const [k, { image }] of good.entries()) {
      say(k);
      const found = await this.network(image, blank);
      for (const n of LEVELS) {
        const { dims, data } = found[`layer${n}`], name = `layer${n}`;
        layers[name] ??= { dims: [count, ...dims], data: new Float32Array(count * data.length) };
        layers[name].data.set(data, k * data.length);
      }
    }
    const memory = await engine.run("keep", layers), nearest = [];
    for (let k = 0; k < count; k++) {
      const found = await engine.run("others", { own: { dims: [1], data: [k] }, ...memory });
      nearest.push(Number(found.nearest.data[0]));
      for (const n of LEVELS) usual[n] = found[`usual${n}`].data.map((one, c) => (usual[n]?.[c] ?? 0) + one / count);
    }
    for (const n of LEVELS) memory[`unit${n}`] = { dims: [usual[n].length], data: units(usual[n], memory[`spread${n}`].data) };
    const scores = [];
    for (const [k, { image }] of good.entries()) {
      say(count + k);
      scores.push((await this.network(image, memory, nearest[k])).score.data[0]);
    }
    const { rate, reach, lines } = engine.facts.photos;
    if (list !== this.good || list.length !== count) return; // others were chosen meanwhile: they come next
    const limit = threshold(scores, rate, reach, lines);
    Object.assign(this, { memory, scores, limit });
    this.slider.value = limit;
  }

  async update() {
    if (!this.ready) return;
    const { panel, good } = this, judged = [...this.judged];
    if (!this.memory) await this.remember();
    if (!this.memory) return;
    for (const [k, photo] of judged.entries()) {
      if (photo.memory === this.memory) continue;
      panel.model.set("status", `Judging photo ${k + 1} of ${judged.length} ...`);
      const { map, score } = await this.network(photo.image, this.memory);
      Object.assign(photo, { map, score: score.data[0], memory: this.memory });
    }
    if (good === this.good && this.memory) this.present(); // nothing else was chosen meanwhile
  }

  present() { // decisions and regions at the threshold
    const { panel, good, scores, limit } = this, judged = this.judged.filter(({ memory }) => memory);
    for (const photo of judged) photo.region = largestRegion(photo.map, photo.place, limit);
    this.row.hidden = false;
    this.shown.textContent = limit.toFixed(3);
    const room = panel.root.querySelector(".live-body").clientWidth, width = Math.min(360, Math.floor(room < 480 ? room : room / 2 - 12));
    const bad = judged.filter(({ score }) => score > limit).length, few = good.length < 20 ? "so few that it is little more than a guess" : "";
    const range = `${Math.min(...scores).toFixed(3)} to ${Math.max(...scores).toFixed(3)}`;
    panel.show(judged.flatMap((photo) => this.pictures(photo, width)).map((item, k) => ({ ...item, newline: k % 2 === 0 })),
      `${judged.length === 1 ? told(judged[0], limit) : `${bad} of ${judged.length} photos are called defective.`} `
      + `Your ${good.length} good photos score ${range}, each compared with the others. The first threshold is the one that about one good photo `
      + `in twenty exceeds${few ? `, as far as ${good.length} photos tell: ${few}` : ""}. Move it as you like.`);
  }

  pictures(photo, width) {
    const { limit, panel: { engine: { facts } } } = this, k = this.judged.indexOf(photo), says = told(photo, limit);
    const wide = Math.min(width, Math.round(width * photo.picture.width / photo.picture.height));
    return [
      { name: `photo${k}`, src: framed(photo), width: wide, alt: `${photo.name}${photo.region ? ", a frame around the largest region" : ""}`,
        caption: `${photo.name}. ${says}` },
      { name: `heat${k}`, src: heated(photo, facts.colours.magma, Math.min(1, 2 * limit)), width: wide, alt: `heatmap over ${photo.name}`,
        caption: `heatmap, 0..${Math.min(1, 2 * limit).toFixed(2)}` },
    ];
  }
}

function thumbnail({ picture, name }) {
  const side = 56, canvas = Object.assign(document.createElement("canvas"), { width: 2 * side, height: 2 * side });
  const { width, height } = picture, share = 2 * side / Math.max(width, height), pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, side - share * width / 2, side - share * height / 2, share * width, share * height);
  return element("img", { src: canvas.toDataURL("image/png"), alt: name, title: name, width: side, height: side });
}

function framed({ picture, region, place }) { // the largest region in a frame
  const canvas = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
  const pen = canvas.getContext("2d"), share = picture.width / place.columns;
  pen.drawImage(picture, 0, 0);
  if (region) for (const [colour, width] of [["#000", 5], ["#ffd60a", 2.5]]) {
    Object.assign(pen, { strokeStyle: colour, lineWidth: width * Math.max(1, picture.width / 360) });
    const [left, top] = [region.left, region.top].map((one) => (one - 1.5) * share); // the frame leaves the region free
    pen.strokeRect(left, top, (region.right - region.left + 3) * share, (region.bottom - region.top + 3) * share);
  }
  return canvas.toDataURL("image/jpeg", .92);
}

const heated = ({ picture, map, place }, colours, top) => lit(picture, map, colours, top, place).toDataURL("image/jpeg", .92);

function told({ score, region, place }, limit) {
  const words = `${score > limit ? "Defective" : "Good"}: score ${score.toFixed(3)}.`;
  if (!region) return `${words} No pixel reaches the threshold.`;
  const third = (from, to, whole) => Math.min(2, Math.floor(1.5 * (from + to) / whole));
  const row = ["upper", "middle", "lower"][third(region.top, region.bottom, place.rows)];
  const column = ["left", "centre", "right"][third(region.left, region.right, place.columns)];
  const where = row === "middle" && column === "centre" ? "in the centre" : `${row} ${column}`;
  return `${words} Largest region: ${percent(region.area / (place.rows * place.columns))} of the photo, ${where}.`;
}
