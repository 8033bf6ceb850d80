// Training monitor: a training that the library has run and noted, to be gone through; nothing is trained here.
import { BAD, Chart } from "./chart.js";

export default class Monitor {
  constructor(panel) { Object.assign(this, { panel, known: panel.engine.facts.monitor }); }

  async update() {
    const { panel, known } = this, step = panel.get("step"), count = known.steps.filter((one) => one <= step).length;
    const before = known.heatmaps.filter((one) => one.step <= step), now = known.means[count - 1];
    const where = (image) => new URL(`assets/${image}`, import.meta.url).href;
    const heat = before.at(-1), photo = panel.facts.items.find(({ name }) => name === "photo");
    panel.show([
      { name: "losses", src: this.chart(count).src(), width: 420, caption: `loss, running mean ${now.toFixed(4)}`,
        alt: `losses of ${count} steps; their running mean is ${now.toFixed(4)}` },
      photo,
      ...(heat ? [{ name: "heatmap", src: where(heat.image), width: 168, alt: `heatmap after step ${heat.step}`,
        caption: `heatmap after step ${heat.step}, 0..1` }] : []),
      ...before.map((one, k) => ({ name: `step${one.step}`, src: where(one.image), width: 112, newline: k === 0,
        alt: `heatmap after step ${one.step}`, caption: `step ${one.step}` })),
    ], `Step ${step} of ${known.steps.at(-1)}, recorded. Loss ${now.toFixed(4)}, it began at ${known.losses[0].toFixed(4)}.`);
  }

  chart(count) {
    const { steps, losses, means } = this.known, log = (values) => values.slice(0, count).map((one) => Math.log10(Math.max(one, 1e-9)));
    const all = losses.map((one) => Math.log10(Math.max(one, 1e-9)));
    const chart = new Chart([0, steps.at(-1)], [Math.min(...all) - .05, Math.max(...all) + .05], "step", "loss, log10", [420, 212]);
    return chart.line(steps.slice(0, count), log(losses), "#9bb8d3").line(steps.slice(0, count), log(means), BAD)
      .legend({ "each step": "#9bb8d3", "running mean": BAD });
  }
}
