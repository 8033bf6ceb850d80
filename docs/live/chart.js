// A small chart as SVG, drawn as the notebooks' charts are (memseg_nb.panels.Chart). Values come from the graphs.

export const GOOD = "#0072B2", BAD = "#E69F00", THRESHOLD = "#333333";
const escape = (words) => String(words).replace(/[&<>"]/g, (one) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[one]);
const text = (x, y, words, anchor = "middle", turn = "") =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}" ${turn}>${escape(words)}</text>`;

export function ticks(low, high, count = 4) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].reduce((a, b) => (Math.abs(b * power - rough) < Math.abs(a * power - rough) ? b : a));
  const numbers = [];
  for (let k = Math.ceil(low / step - 1e-9); k <= Math.floor(high / step + 1e-9); k++) numbers.push(k * step);
  return numbers;
}

export const label = (number) => {
  const whole = Number.isInteger(Number(number.toFixed(9))) && Math.abs(number) < 1e6;
  return whole ? String(Math.round(number)) : String(Number(number.toPrecision(3)));
};

export class Chart {
  constructor(x, y, xlabel, ylabel, size = [300, 200]) {
    Object.assign(this, { x, y, xlabel, ylabel, size, shapes: [], left: 54, right: 10, top: 10, bottom: 38 });
  }

  across(x) {
    const share = (x - this.x[0]) / ((this.x[1] - this.x[0]) || 1);
    return this.left + share * (this.size[0] - this.left - this.right);
  }

  down(y) {
    const share = (y - this.y[0]) / ((this.y[1] - this.y[0]) || 1);
    return this.size[1] - this.bottom - share * (this.size[1] - this.top - this.bottom);
  }

  valueAt(share) { // of the picture's width
    const inside = (share * this.size[0] - this.left) / (this.size[0] - this.left - this.right);
    return this.x[0] + inside * (this.x[1] - this.x[0]);
  }

  bars(edges, heights, colour = GOOD, opacity = .75) { // a colour, or one a bar
    const floor = this.down(Math.max(this.y[0], 0));
    heights.forEach((height, k) => {
      const a = this.across(edges[k]), b = this.across(edges[k + 1]), at = this.down(height);
      this.shapes.push(`<rect x="${(a + .5).toFixed(1)}" y="${at.toFixed(1)}" width="${Math.max(b - a - 1, .5).toFixed(1)}" `
        + `height="${Math.max(floor - at, 0).toFixed(1)}" fill="${Array.isArray(colour) ? colour[k] : colour}" `
        + `fill-opacity="${opacity}"/>`);
    });
    return this;
  }

  line(x, y, colour = GOOD) {
    const points = [...x].map((one, k) => `${this.across(one).toFixed(1)},${this.down(y[k]).toFixed(1)}`).join(" ");
    this.shapes.push(`<polyline points="${points}" fill="none" stroke="${colour}" stroke-width="1.8"/>`);
    return this;
  }

  upright(x, words = "", colour = THRESHOLD) {
    const at = this.across(x), right = at > this.size[0] / 2;
    this.shapes.push(`<path d="M${at.toFixed(1)},${this.size[1] - this.bottom}V${this.top}" stroke="${colour}" `
      + 'stroke-width="2" stroke-dasharray="5,3"/>', text(at + (right ? -4 : 4), this.top + 10, words, right ? "end" : "start"));
    return this;
  }

  point(x, y, colour = BAD) {
    this.shapes.push(`<circle cx="${this.across(x).toFixed(1)}" cy="${this.down(y).toFixed(1)}" r="5.5" fill="${colour}" `
      + 'stroke="#222" stroke-width="1.5"/>');
    return this;
  }

  legend(entries) { // name -> colour, in the upper right corner
    const at = this.size[0] - this.right - 4 - 7 * Math.max(...Object.keys(entries).map((name) => name.length));
    Object.entries(entries).forEach(([name, colour], k) => {
      const y = this.top + 9 + 15 * k;
      this.shapes.push(`<path d="M${at - 20},${y}h16" stroke="${colour}" stroke-width="3"/>`, text(at, y + 4, name, "start"));
    });
    return this;
  }

  axes() {
    const [width, height] = this.size, floor = height - this.bottom, middle = (this.top + floor) / 2;
    const parts = [`<path d="M${this.left},${this.top}V${floor}H${width - this.right}" fill="none" stroke="#333"/>`];
    for (const number of ticks(...this.x)) {
      const at = this.across(number);
      parts.push(`<path d="M${at.toFixed(1)},${floor}v4" stroke="#333"/>`, text(at, floor + 15, label(number)));
    }
    for (const number of ticks(...this.y)) {
      const at = this.down(number);
      parts.push(`<path d="M${this.left - 4},${at.toFixed(1)}h4" stroke="#333"/>`, text(this.left - 6, at + 4, label(number), "end"));
    }
    return [...parts, text((this.left + width - this.right) / 2, height - 6, this.xlabel),
      text(11, middle, this.ylabel, "middle", `transform="rotate(-90 11 ${middle.toFixed(1)})"`)];
  }

  src() {
    const [width, height] = this.size;
    const parts = [`<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" `
      + 'font-family="DejaVu Sans, Verdana, sans-serif" font-size="11" fill="#222">',
    '<rect width="100%" height="100%" fill="white"/>', ...this.shapes, ...this.axes(), "</svg>"];
    return `data:image/svg+xml,${encodeURIComponent(parts.join("\n"))}`;
  }
}
