// Anomaly studio: from a good image to an anomaly, step by step. One graph cuts the texture, another computes all steps.
import { Listing } from "./code.js";
import { coloured, decoded, mask, photo, pixels, source, stored, storedMask } from "./drawing.js";
import { lattice } from "./perlin.js";
import { mean, percent } from "./words.js";

const OWN = "own image";
const MORE = 12;

export default class Studio {
  constructor(panel) {
    Object.assign(this, { panel, own: null, more: false, listing: new Listing("code", panel.controls.part("code").input) });
    panel.root.querySelector(".live-body").after(this.listing.box);
  }

  begin() { this.enable(); }

  click(name) { // one of the twelve: its seed
    if (!name.startsWith("more")) return;
    this.more = false;
    this.panel.set({ seed: Number(name.slice(4)) });
  }

  enable() { // only the controls that count now can be moved
    const { panel } = this, how = panel.get("foreground"), own = panel.get("product") === OWN;
    const used = { level: ["brighter than", "darker than"].includes(how), row: how === "table", number: !own };
    for (const [name, on] of Object.entries(used)) panel.controls.enable(name, on);
  }

  async moved(name, value) {
    const { panel } = this;
    if (name === "code") {
      this.listing.toggle();
      return this.listing.empty; // the first time the settings are computed with; then what is shown stays
    }
    this.more = name === "more";
    if (name === "upload") {
      try { this.own = pixels(await createImageBitmap(value), panel.engine.facts.side); this.file = value.name; } catch {
        panel.model.set("status", `${value.name}: this browser can't read it as an image; choose a PNG, JPEG or WebP file.`);
        return false;
      }
      panel.controls.put("product", OWN);
      if (panel.get("foreground") === "auto") panel.controls.put("foreground", "off");
    }
    this.enable();
    return true;
  }

  async photo() { // image, and which pixels may be spoilt: a mask that was computed, or a rule for the graph
    const { panel } = this, { facts } = panel.engine, { side, studio } = facts, how = panel.get("foreground");
    const all = { dims: [side, side], data: new Uint8Array(side * side).fill(1) };
    const product = panel.get("product"), own = product === OWN;
    if (own && !this.own) throw new Error("no image yet: choose a file with the button 'own image'");
    const known = own ? null : studio.photos[product][panel.get("number")];
    const image = own ? this.own : await stored(`assets/${known.image}`, side);
    const rule = how === "table" ? studio.rules[panel.get("row")]
      : { level: panel.get("level"), direction: { "brighter than": 1, "darker than": 2 }[how] ?? 0 };
    const foreground = how === "auto" && known ? await storedMask(`assets/${known.foreground}`, side) : all;
    return { image, foreground, ...rule };
  }

  exponents() { return [this.panel.get("smallest"), this.panel.get("largest")].sort((a, b) => a - b); }

  async drawn(seed) { // what a seed stands for: lattice, angle, order and changes of the pieces, window of a texture
    const { angles, exponents, rotation, changes, pieces, sheet, window, colours } = await this.panel.engine.arrays("draws");
    const [low, high] = this.exponents(), place = [seed, high];
    const at = (array, width, ...place) => { // one row of a stored table
      const start = place.reduce((sum, k, axis) => sum * array.dims[axis] + k, 0) * width;
      return { dims: [width], data: array.data.slice(start, start + width) };
    };
    const [rows, columns] = [...at(exponents, 2, seed, low, high).data].map((one) => 2 ** one + 1);
    return { angles: lattice(angles, seed, 2, 2 ** high + 1, rows, columns), rotation: at(rotation, 1, ...place).data[0],
      changes: at(changes, changes.dims[2], ...place), pieces: at(pieces, pieces.dims[2], ...place),
      sheet: at(sheet, 1, ...place).data[0], window: at(window, window.dims[2], ...place), colours: at(colours, colours.dims[2], ...place) };
  }

  async texture({ sheet, window, colours }) { // a window of a sheet; nothing is loaded where the source is another
    const { engine } = this.panel, { side, studio, graphs } = engine.facts;
    if (this.panel.get("source") === "structure") return { dims: [3, side, side], data: new Float32Array(3 * side * side) };
    const whole = graphs.texture.inputs.sheet.shape[1];
    return (await engine.run("texture", { sheet: await decoded(`assets/${studio.sheets[sheet]}`, whole), window, colours })).texture;
  }

  async made(given, seed) { // one anomaly
    const drawn = await this.drawn(seed), texture = await this.texture(drawn), kind = Number(this.panel.get("source") === "structure");
    return this.panel.engine.run("studio", { ...given, ...drawn, texture, kind, opacity: this.panel.get("opacity"),
      threshold: this.panel.get("threshold") });
  }

  async update() {
    const { panel, more } = this, given = await this.photo(), kind = Number(panel.get("source") === "structure"), seed = panel.get("seed");
    const seeds = Array.from({ length: more ? MORE : 0 }, (_, k) => (seed + 1 + k) % panel.engine.arraysOf("draws").angles.shape[0]);
    const out = await this.made(given, seed), others = [], steps = this.steps(given.image, out, kind);
    this.out = out; // for tests
    this.listing.show(this.parts(out.share.data[0]));
    if (more) panel.model.set("status", "Making twelve more ...");
    for (const one of seeds) others.push([one, await this.made(given, one)]);
    if (this.more !== more) return; // something was moved meanwhile: it will be shown instead
    panel.show([...steps, ...others.map(another)], more ? several(others) : sentence(out, panel.get("opacity")));
  }

  parts(share) { // the settings as code, in the words of the notebook's studio, and where Python's picture is another one
    const { panel } = this, { studio, side } = panel.engine.facts, own = panel.get("product") === OWN, how = panel.get("foreground");
    const [smallest, largest] = this.exponents(), level = panel.get("level"), number = panel.get("number");
    const values = { smallest, largest, threshold: float(panel.get("threshold")), opacity: float(panel.get("opacity")),
      method: { "brighter than": `>${level}`, "darker than": `<=${level}` }[how] ?? how, seed: panel.get("seed"),
      share: float(Number(panel.get("source") === "texture")), number };
    const quoted = { product: quote(panel.get("product")), method: quote(values.method),
      category: quote(how === "table" ? panel.get("row") : panel.get("product")) };
    let code = studio.code.replace(/\{(\w+)\}/g, (_, name) => quoted[name] ?? values[name]);
    if (own) code = code.replace(/^from .*render_product$/m, "from memseg_nb.images import read_image, resize")
      .replace(/^image = .*$/m, `image = resize(read_image(${quote(this.file ?? "")}), (${side}, ${side}))`);
    const lines = [], changed = studio.settings.filter(({ name, value }) => String(values[name]) !== value);
    for (const [k, { section, key, name }] of changed.entries()) {
      if (section !== changed[k - 1]?.section) lines.push(...k ? ["", `[${section}]`] : [`[${section}]`]);
      lines.push(`${key} = ${values[name]}`);
    }
    if (!lines.length) lines.push("# nothing differs from the shipped settings");
    return { note: this.note(share, own, how), Python: code, "settings.ini": `${lines.join("\n")}\n` };
  }

  note(share, own, how) {
    if (own && how === "auto") return "In Python, auto separates your image from its background by Otsu's threshold; here the whole image may be spoilt. "
      + "Choose off, and both do the same.";
    if (!share) return "In Python this is another picture: the library draws noise again until it meets the product; the page draws once.";
    if (own) return "Run in Python, this makes the anomaly above. Single pixels can differ, because your browser decoded the image and resized it.";
    return "Run in Python, this makes the anomaly above, as made.images[0]: equal to one of 256 levels, but for at most one pixel in 1000, where "
      + "noise or brightness lies right at a threshold.";
  }

  steps(image, out, kind) {
    const share = percent(out.share.data[0]), whole = percent(mean(out.product), 0);
    const what = kind ? ["shuffled pieces of the image itself", "shuffled pieces"] : ["foreign texture", "foreign texture"];
    return [
      ["image", photo(image), "the good image", "good image I"],
      ["foreground", mask(out.product), `foreground: ${whole} of the image, white`, "foreground"],
      ["noise", coloured(out.noise, this.panel.engine.facts.colours.viridis, [-1, 1]), "Perlin noise", "noise P"],
      ["noise_mask", mask(out.noise_mask), "where the noise rises above the threshold", "noise mask"],
      ["mask", mask(out.mask), `mask: ${share} of the image, white`, "mask M = both"],
      ["source", photo(out.source), ...what],
      ["anomaly", photo(out.anomaly), `the image with a simulated anomaly that covers ${share} of it`, "anomaly"],
    ].map(([name, canvas, alt, caption]) => ({ name, src: source(canvas), alt, caption, width: 160, newline: name === "mask" }));
  }
}

const quote = (text) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
const float = (number) => { // as Python writes it
  const rounded = Math.round(1e4 * number) / 1e4;
  return Number.isInteger(rounded) ? `${rounded}.0` : String(rounded);
};

function another([seed, out], place) { // one of the twelve
  const share = out.share.data[0], words = share ? percent(share) : "misses";
  return { name: `more${seed}`, src: source(photo(out.anomaly)), width: 112, newline: place === 0, clickable: true,
    alt: share ? `anomaly of seed ${seed}, covering ${words} of the image` : `seed ${seed}: the noise misses the product`,
    caption: `seed ${seed}: ${words}` };
}

function several(others) {
  const shares = others.map(([, out]) => out.share.data[0]), [first] = others[0], [last] = others.at(-1);
  const missed = shares.filter((share) => !share).length;
  return `Twelve more anomalies, of the seeds ${first} to ${last}; they cover ${percent(Math.min(...shares))} to ${percent(Math.max(...shares))} of `
    + `the image. ${missed ? `In ${missed} of them the noise misses the product. ` : ""}A click on one, or the slider, takes its seed.`;
}

function sentence(out, opacity) {
  const share = out.share.data[0];
  return `The anomaly covers ${percent(share)} of the image, ${percent(opacity, 0)} opaque; the foreground is `
    + `${percent(mean(out.product), 0)} of it.`
    + (share ? "" : " This noise misses the product: take another seed. The library would draw again by itself.");
}
