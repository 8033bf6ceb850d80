// Threshold explorer: a graph counts the decisions and follows the ROC curve; scores were measured by the library.
import { BAD, Chart, GOOD } from "./chart.js";
import { element } from "./controls.js";

const sum = (values) => values.reduce((a, b) => a + b, 0);
const MOST = 10; // pictures of images that changed sides

export default class Threshold {
  constructor(panel) {
    Object.assign(this, { panel, known: panel.engine.facts.threshold });
    this.captions = Object.fromEntries(panel.facts.items.map(({ name, caption }) => [name, caption]));
    this.chart = this.axes(); // a click into the picture that stands there first counts too
  }

  axes() {
    const { edges, good, defective } = this.known;
    return new Chart([edges[0], edges.at(-1)], [0, 1.3 * Math.max(...good, ...defective, 1)], "image score", "images", [360, 220]);
  }

  begin() {
    this.table = element("div");
    this.panel.controls.box.append(this.table);
  }

  click(name, x) { // into the histogram: the threshold goes there
    if (name === "scores") this.panel.set({ threshold: this.chart.valueAt(x) });
  }

  async update() {
    const { panel, known } = this, t = panel.get("threshold"), many = { dims: [known.scores.length] };
    const out = await panel.engine.run("scores", { scores: { ...many, data: known.scores }, labels: { ...many, data: known.labels },
      threshold: t });
    const [tp, fp, tn, fn] = ["tp", "fp", "tn", "fn"].map((name) => Number(out[name].data[0])), flips = this.flips(t);
    this.table.replaceChildren(confusion(tp, fp, tn, fn));
    panel.show([this.histogram(t), this.roc(out, fp / Math.max(fp + tn, 1), tp / Math.max(tp + fn, 1)),
      ...flips.slice(0, MOST).map((k, place) => this.flipped(k, t, place))],
    `From ${t.toFixed(3)} on ${tp} of ${tp + fn} defective images are found and ${fp} of ${fp + tn} good ones called defective. `
      + `${flips.length} decisions differ from those at ${known.threshold.toFixed(3)}.`);
  }

  flips(t) {
    const { scores, threshold } = this.known;
    return [...scores.keys()].filter((k) => (scores[k] > t) !== (scores[k] > threshold));
  }

  histogram(t) {
    const { edges, good, defective } = this.known;
    this.chart = this.axes();
    this.chart.bars(edges, good, GOOD, .7).bars(edges, defective, BAD, .7).upright(t).legend({ good: GOOD, defective: BAD });
    return { name: "scores", src: this.chart.src(), width: 360, clickable: true, caption: this.captions.scores,
      alt: `histogram of the scores of ${sum(good)} good and ${sum(defective)} defective images; threshold ${t.toFixed(3)}` };
  }

  roc(out, fpr, tpr) {
    const chart = new Chart([0, 1], [0, 1.02], "false-positive rate", "true-positive rate", [250, 220]);
    chart.line(out.fpr.data, out.tpr.data).point(fpr, tpr);
    return { name: "roc", src: chart.src(), width: 250, caption: this.captions.roc,
      alt: `${this.captions.roc}; now at false-positive rate ${fpr.toFixed(3)}, true-positive rate ${tpr.toFixed(3)}` };
  }

  flipped(k, t, place) {
    const { scores, labels, names, thumbs } = this.known, bad = scores[k] > t, says = bad ? "defective" : "good";
    const right = bad === Boolean(labels[k]) ? "right" : "wrong";
    return { name: `flip${k}`, src: new URL(`assets/${thumbs[k]}`, import.meta.url).href, width: 112, newline: place === 0,
      alt: `${names[k]}, now called ${says}: ${right}`, caption: `${names[k]}: now ${says}, ${right}` };
  }
}

function confusion(tp, fp, tn, fn) {
  const row = (name, a, b) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, String(a)), element("td", {}, String(b)));
  const head = element("tr", {}, element("td"), element("th", { scope: "col" }, "called good"), element("th", { scope: "col" }, "called defective"));
  return element("table", { className: "live-table" }, element("caption", {}, "decisions"), head, row("good", tn, fp), row("defective", fn, tp));
}
