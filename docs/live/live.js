// Finds the widgets of a page and brings them to life, each when it comes near the window. Without this file, and in
// browsers that lack something, the pictures and their words stand.
import { Engine, lacking } from "./engine.js";

const WIDGETS = ["perlin", "studio", "memory", "painter", "threshold", "monitor", "photos"];
const beside = (name) => new URL(name, import.meta.url).href;
let common = null;

export function engine() { // one for the page
  common ??= fetch(beside("facts.json")).then(async (answer) => {
    if (!answer.ok) throw new Error(`facts.json: the server answers ${answer.status}`);
    const facts = await answer.json();
    for (const widget of Object.values(facts.widgets))
      for (const item of widget.items) item.src = beside(item.src);
    return new Engine(facts);
  });
  return common;
}

async function enliven(root) {
  if (root.dataset.play) {
    const { play } = await import("./plays.js");
    return play(root);
  }
  const name = root.dataset.live;
  if (!WIDGETS.includes(name)) return;
  const missing = lacking();
  if (missing) throw new Error(`this browser lacks ${missing}`);
  const [shared, { default: Widget }, { Panel }] = await Promise.all(
    [engine(), import(`./${name}.js`), import("./panel.js")]);
  root.panel = new Panel(root, shared, shared.facts.widgets[name], Widget);
}

function begin(root) {
  enliven(root).catch((error) => {
    root.querySelector(".live-note").textContent = `These pictures don't move here: ${error.message}. What they show was `
      + "computed by the library when the page was made.";
  });
}

const linked = location.hash.match(/^#([\w-]+)\?/);
if (linked) document.getElementById(linked[1])?.scrollIntoView(); // it begins when it comes near
const watch = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) { watch.unobserve(target); begin(target); }
}, { rootMargin: "400px" });
for (const root of document.querySelectorAll("[data-live], [data-play]")) watch.observe(root);
