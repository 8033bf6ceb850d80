// Anomaly studio: from a good image to an anomaly, step by step. One graph computes all steps.
import { coloured, mask, photo, pixels, source, stored, storedMask } from "./drawing.js";
import { lattice } from "./perlin.js";
import { mean, percent } from "./words.js";

const OWN = "own image";

export default class Studio {
  constructor(panel) { Object.assign(this, { panel, own: null }); }

  begin() { this.enable(); }

  enable() { // only the controls that count now can be moved
    const { panel } = this, how = panel.get("foreground"), own = panel.get("product") === OWN;
    const used = { level: ["brighter than", "darker than"].includes(how), row: how === "table", number: !own };
    for (const [name, on] of Object.entries(used)) panel.controls.enable(name, on);
  }

  async moved(name, value) {
    const { panel } = this;
    if (name === "upload") {
      try { this.own = pixels(await createImageBitmap(value), panel.engine.facts.side); } catch {
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

  async drawn() { // what the seed stands for: lattice, angle, order and changes of the pieces
    const { panel } = this, seed = panel.get("seed"), ends = [panel.get("smallest"), panel.get("largest")].sort((a, b) => a - b);
    const { angles, exponents, rotation, changes, pieces } = await panel.engine.arrays("draws"), [low, high] = ends;
    const at = (array, width, ...place) => { // one row of a stored table
      const start = place.reduce((sum, k, axis) => sum * array.dims[axis] + k, 0) * width;
      return { dims: [width], data: array.data.slice(start, start + width) };
    };
    const [rows, columns] = [...at(exponents, 2, seed, low, high).data].map((one) => 2 ** one + 1);
    return { angles: lattice(angles, seed, 2, 2 ** high + 1, rows, columns), rotation: at(rotation, 1, seed, high).data[0],
      changes: at(changes, changes.dims[2], seed, high), pieces: at(pieces, pieces.dims[2], seed, high) };
  }

  async update() {
    const { panel } = this, { engine } = panel, { textures } = engine.facts.studio, kind = Number(panel.get("source") === "structure");
    const texture = await stored(`assets/${textures[panel.get("seed") % textures.length]}`, engine.facts.side);
    const given = { ...await this.photo(), ...await this.drawn() }, opacity = panel.get("opacity");
    const out = await engine.run("studio", { ...given, texture, kind, opacity, threshold: panel.get("threshold") });
    panel.show(this.steps(given.image, out, kind), sentence(out, opacity));
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

function sentence(out, opacity) {
  const share = out.share.data[0];
  return `The anomaly covers ${percent(share)} of the image, ${percent(opacity, 0)} opaque; the foreground is `
    + `${percent(mean(out.product), 0)} of it.`
    + (share ? "" : " This noise misses the product: take another seed. The library would draw again by itself.");
}
