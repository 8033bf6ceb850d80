// Perlin playground: noise, its histogram with the threshold, its mask. The graph computes all three.
import { Chart } from "./chart.js";
import { coloured, mask, source } from "./drawing.js";
import { pieces } from "./regions.js";
import { percent } from "./words.js";

const LARGEST = 33; // points along a side of the largest lattice

export function lattice({ dims, data }, row, first, side, rows, columns) { // the first rows and columns of a stored square
  const start = row * dims[1] + first, chosen = [];
  for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) chosen.push(data[start + y * side + x]);
  return { dims: [rows, columns], data: chosen };
}

export default class Perlin {
  constructor(panel) { this.panel = panel; }

  async update() {
    const { panel } = this, { engine } = panel, threshold = panel.get("threshold"), cells = [2 ** panel.get("a"), 2 ** panel.get("b")];
    const { angles } = await engine.arrays("draws");
    const out = await engine.run("perlin", { threshold, rotation: panel.get("rotation"),
      angles: lattice(angles, panel.get("seed"), 0, LARGEST, cells[0] + 1, cells[1] + 1) });
    const share = out.share.data[0], counts = [...out.histogram.data];
    const [rows, columns] = out.mask.dims, count = pieces(rows, columns, (y, x) => out.mask.data[y * columns + x]).length;
    const edges = [...Array(counts.length + 1).keys()].map((k) => -1.2 + 2.4 * k / counts.length);
    const chart = new Chart([-1.2, 1.2], [0, 1.15 * Math.max(...counts)], "noise", "pixels", [300, 214]);
    chart.bars(edges, counts, edges.slice(0, -1).map((low) => (low + 1e-9 < threshold ? "#21918c" : "#440154")), .85)
      .upright(threshold, `T = ${threshold.toFixed(2)}`);
    panel.show([
      { name: "noise", src: source(coloured(out.noise, engine.facts.colours.viridis, [-1, 1])), width: 214,
        alt: `Perlin noise on a lattice of ${cells[0]} rows and ${cells[1]} columns of cells`, caption: "noise P, -1..1" },
      { name: "histogram", src: chart.src(), width: 300, caption: "histogram",
        alt: `histogram of the noise, ${percent(share)} of it right of the threshold` },
      { name: "mask", src: source(mask(out.mask)), width: 214, caption: "mask: where P > T",
        alt: `mask: ${percent(share)} of the area, white, in ${count} pieces` },
    ], `${cells[0]} x ${cells[1]} cells: ${percent(share)} of the area lie above ${threshold.toFixed(2)}, in `
      + (count === 1 ? "one piece." : `${count} pieces.`));
  }
}
