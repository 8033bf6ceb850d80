// Defect painter: the brush tells where it went, one graph paints, another pastes flaws, the network says what it finds. Painting doesn't wait
// for the network: strokes are painted at once, and the newest picture is looked at when the network is free.
import canvas from "./canvas.js";
import { element } from "./controls.js";
import { coloured, covered, glowing, lit, photo, picture, source, stored } from "./drawing.js";
import { Model } from "./model.js";
import { network } from "./network.js";
import { largest, short } from "./words.js";

const counted = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16) / 255);

export default class Painter {
  constructor(panel) {
    Object.assign(this, { panel, history: [], shown: "", asked: {} });
  }

  begin() {
    const { panel } = this, side = panel.engine.facts.size, room = panel.root.querySelector(".live-body").clientWidth;
    if (panel.later) this.width = room < 480 ? Math.min(room, 360) : panel.stills[0].width;
    const first = panel.stills?.[0] ?? panel.facts.items.find(({ name }) => name === "paper");
    this.model = new Model({ src: first.src, alt: first.alt, rows: side, columns: side, radius: panel.get("radius"),
      width: this.width ?? 300 }, (message) => this.told(message));
    const box = element("div");
    panel.board.before(box);
    canvas.render({ model: this.model, el: box });
    panel.controls.enable("colour", panel.get("brush") === "colour");
  }

  get image() { return this.history.at(-1); }

  async told(message) { // strokes and U, as the canvas sends them; it waits for the answer before it tells more
    try {
      if (message.kind === "paint") await this.paint(message.points, message.fresh);
      if (message.kind === "undo") await this.moved("undo");
      this.panel.refresh();
    } catch (error) {
      this.panel.model.set("status", error.message);
    } finally {
      this.model.fire("msg:custom", { kind: "done" });
    }
  }

  async paint(points, fresh) {
    if (!this.image) return;
    const { panel } = this, before = this.image, path = points.length > 1 ? points : [points[0], points[0]];
    const colour = rgb(this.known.brushes[panel.get("brush")] ?? panel.get("colour"));
    const { painted } = await panel.engine.run("paint", { image: before, radius: panel.get("radius"),
      points: { dims: [path.length, 2], data: path.flat() }, colour: { dims: [3], data: colour } });
    if (this.image !== before) return; // another photo was chosen meanwhile
    if (fresh || this.history.length === 1 || before.flaw) this.history.push(painted); else this.history[this.history.length - 1] = painted;
    this.draw();
  }

  async paste() { // a flaw of the chosen kind, another one each time
    const { panel } = this, { engine } = panel, { stamps, kinds } = engine.facts, chosen = panel.get("kind");
    await this.choose();
    const made = await engine.arrays("flaws"), before = this.image, number = this.asked[chosen] ?? 0;
    const k = kinds.indexOf(chosen) * stamps + number % stamps, at = ({ dims, data }) => {
      const size = dims.slice(1).reduce((a, b) => a * b, 1);
      return { dims: dims.length > 1 ? dims.slice(1) : [1], data: data.subarray(k * size, (k + 1) * size) };
    };
    this.asked[chosen] = number + 1;
    const shape = at(made.shape), { painted } = await engine.run("flaw", { image: before, kind: at(made.kind), which: at(made.which),
      strength: at(made.strength), numbers: at(made.numbers), grain: at(made.grain), shape: { ...shape, data: Float32Array.from(shape.data, (one) => one / 255) } });
    if (this.image !== before) return;
    this.history.push(Object.assign(painted, { flaw: chosen }));
    this.draw();
  }

  async moved(name) { // whether the network has to look again
    const { panel } = this;
    if (name === "radius") this.model.set("radius", panel.get("radius"));
    if (name === "brush") panel.controls.enable("colour", panel.get("brush") === "colour");
    if (["radius", "brush", "colour", "kind"].includes(name)) return false;
    if (name === "paste") await this.paste();
    if (name === "undo" && this.history.length > 1) this.history.pop();
    if (name === "clear") this.history.length = Math.min(this.history.length, 1);
    this.draw();
    return true;
  }

  draw() {
    if (!this.image) return;
    const flaws = this.history.filter(({ flaw }) => flaw), strokes = this.history.length - 1 - flaws.length;
    const words = [counted(strokes, "stroke"), ...flaws.length ? [`${counted(flaws.length, "pasted flaw")} (${flaws.map(({ flaw }) => flaw).join(", ")})`] : []];
    this.model.set("alt", `photo of a ${this.product.replaceAll("_", " ")} to paint on, ${words.join(" and ")}`);
    this.model.set("src", source(this.crisp ? covered(this.crisp, this.history[0], this.image) : photo(this.image)));
  }

  async example() { // the home page's scratch, painted anew
    const [a, b, c] = JSON.parse(this.panel.root.dataset.stroke), side = this.panel.engine.facts.size, points = [];
    for (let t = 0; t <= 1.001; t += .05)
      points.push([0, 1].map((k) => side * ((1 - t) ** 2 * a[k] + 2 * t * (1 - t) * b[k] + t ** 2 * c[k])));
    this.panel.set({ radius: 1 });
    await this.paint(points, true);
  }

  async choose() { // another product or photo
    const { panel } = this, { size, products } = panel.engine.facts, number = panel.get("number");
    const product = panel.get("product") ?? Object.keys(products)[0], name = `${product} ${number}`;
    if (this.shown === name) return;
    const known = products[product].painter, { image: file, crisp } = known.photos[number];
    const [image, sharp] = await Promise.all([stored(`assets/${file}`, size), panel.later ? picture(`assets/${crisp}`) : null]);
    Object.assign(this, { product, known, history: [image], shown: name, crisp: sharp });
    this.draw();
    if (this.panel.later && !this.begun) await this.example();
    this.begun = true;
  }

  async update() {
    await this.choose();
    const { panel, image, product } = this, { facts } = panel.engine, begun = performance.now();
    const { map, score: { data: [score] } } = await network(panel.engine, product, image);
    if (this.product !== product) return;
    this.milliseconds = performance.now() - begun;
    const { threshold, pixel_threshold: limit } = facts.products[product], top = Math.min(1, 2 * limit), { magma } = facts.colours;
    const heatmap = { name: "heatmap", src: source(coloured(map, magma, [0, top])), width: this.width ?? 200,
      alt: `heatmap, up to ${largest(map).toFixed(2)}`, caption: `heatmap, 0..${short(top)}` };
    const shining = this.crisp ? lit(this.crisp, map, magma, top) : glowing(image, map, magma, top);
    const overlay = { name: "overlay", src: source(shining), width: this.width ?? 200,
      alt: "photo with the heatmap over it", caption: this.width ? "what the network says" : "photo and heatmap" };
    this.map = map; // for tests
    const pasted = image.flaw, words = pasted ? `Pasted: ${pasted}. ` : "";
    panel.show(this.width ? [overlay] : [heatmap, overlay], `${words}Score ${score.toFixed(3)}, threshold ${threshold.toFixed(3)}: `
      + `${score > threshold ? "defective" : "good"}. The heatmap reaches ${largest(map).toFixed(2)}.`);
  }
}
