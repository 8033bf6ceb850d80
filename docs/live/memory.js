// Memory explorer: distances to all samples, and what follows from the sample that the image is compared with.
import { BAD, Chart, GOOD } from "./chart.js";
import { coloured, photo, source, stored, storedMask } from "./drawing.js";
import { megabytes } from "./panel.js";
import { memoryOf, network } from "./network.js";
import { largest, percent, short, thousands } from "./words.js";

const MAPS = [1, 2, 3].flatMap((k) => [[`DI${k}`, `difference${k}`, `mean difference on layer ${k}`]])
  .concat([1, 2, 3].map((k) => [`M${k}`, `attention${k}`, `attention map M${k}`]));
const NEAR = 4; // pixels from the place of the largest attention that still count as "at the defect"

export default class Memory {
  constructor(panel) {
    Object.assign(this, { panel, kept: new Map() });
    this.take(panel.get("product") ?? Object.keys(panel.engine.facts.products)[0]);
  }

  take(product) { Object.assign(this, { product, known: this.panel.engine.facts.products[product].explorer, chart: null }); }

  moved(name, value) { // another product has other test images
    const { controls } = this.panel;
    if (name !== "product") return;
    this.take(value);
    controls.part("test").offer(this.known.tests.map((one) => one.name));
    controls.put("compare", "nearest");
  }

  click(name, x) { // a bar: compare with its sample; the one that is taken already: free the choice
    if (name !== "distances" || !this.chart) return;
    const last = this.known.samples.length - 1, chosen = String(Math.min(Math.max(Math.round(this.chart.valueAt(x)), 0), last));
    this.panel.set({ compare: chosen === this.panel.get("compare") ? "nearest" : chosen });
  }

  // Once a test image: its distances, and the differences to the farthest sample, which set the colours
  async looked(name) {
    const place = `${this.product} ${name}`;
    if (!this.kept.has(place)) {
      const { engine } = this.panel, memory = memoryOf(this.product);
      if (engine.missing([memory]).length)
        this.panel.model.set("status", `Loading what the network remembers of the ${this.product.replaceAll("_", " ")} (${megabytes(engine.bytes([memory]))}) ...`);
      const { image, mask } = this.known.tests.find((one) => one.name === name);
      const picture = await stored(`assets/${image}`, engine.facts.size), { distances } = await network(engine, this.product, picture);
      const far = await network(engine, this.product, picture, distances.data.indexOf(largest(distances)));
      this.kept.set(place, { picture, defect: await storedMask(`assets/${mask}`, engine.facts.size), distances: [...distances.data],
        tops: MAPS.map(([, key]) => largest(far[key])) });
    }
    return this.kept.get(place);
  }

  async update() {
    const { panel, known, product } = this, { engine } = panel, name = panel.get("test"), count = panel.get("samples");
    const { picture, defect, distances, tops } = await this.looked(name), first = distances.slice(0, count);
    const nearest = first.indexOf(Math.min(...first)), chosen = panel.get("compare") === "nearest" ? nearest : Number(panel.get("compare"));
    const out = await network(engine, product, picture, chosen);
    if (this.product !== product) return; // another one was chosen meanwhile
    const shown = MAPS.map(([key, output, words], k) => ({ name: key, width: 118, newline: k === 0,
      src: source(coloured(out[output], engine.facts.colours.magma, [0, tops[k]])),
      alt: `${words}, ${out[output].dims.join(" x ")} pixels, up to ${short(largest(out[output]))}`,
      caption: `${key}, up to ${short(largest(out[output]))}` }));
    panel.show([
      { name: "image", src: source(photo(picture)), width: 150, alt: `test image, ${name}`, caption: name },
      { name: "sample", src: new URL(`assets/${known.samples[chosen]}`, import.meta.url).href, width: 150,
        alt: `good sample number ${chosen}`, caption: `sample ${chosen}` },
      this.bars(distances, count, chosen, nearest), ...shown,
    ], tell(distances, count, chosen, nearest, out.attention1, defect));
  }

  bars(distances, count, chosen, nearest) {
    const values = distances.map((one) => one / 1000), edges = [...Array(values.length + 1).keys()].map((k) => k - .5);
    this.chart = new Chart([-.5, values.length - .5], [0, 1.05 * Math.max(...values)], "sample (click one)", "distance / 1000", [476, 190]);
    this.chart.bars(edges, values, values.map((_, k) => (k === chosen ? BAD : k < count ? GOOD : "#bbbbbb")), .9);
    return { name: "distances", src: this.chart.src(), width: 476, clickable: true,
      caption: "orange: compared with; blue: in use; grey: not among the first N",
      alt: `distances to ${values.length} samples; number ${nearest} is nearest, number ${chosen} is compared with` };
  }
}

function tell(distances, count, chosen, nearest, attention, defect) {
  const top = largest(attention), [rows, columns] = attention.dims, [height, width] = defect.dims, at = attention.data.indexOf(top);
  let words = `Nearest of the first ${count} samples: number ${nearest}, distance ${thousands(distances[nearest])}. `;
  if (chosen !== nearest) words += `Compared with number ${chosen} instead, +${percent(distances[chosen] / distances[nearest] - 1)}. `;
  words += `M1 reaches ${short(top)}`;
  if (!defect.data.some((one) => one)) return `${words}.`;
  const y = Math.floor((Math.floor(at / columns) + .5) * height / rows), x = Math.floor((at % columns + .5) * width / columns);
  const inside = defect.data.some((one, k) => one && Math.abs(Math.floor(k / width) - y) <= NEAR && Math.abs(k % width - x) <= NEAR);
  return `${words}, ${inside ? "at" : "away from"} the defect.`;
}
