// One widget on a page: the precomputed pictures first; controls, progress and answers when somebody touches it.
import board from "./board.js";
import { Controls, element } from "./controls.js";
import { copier, take } from "./link.js";
import { Model } from "./model.js";

export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

export class Panel {
  constructor(root, engine, facts, Widget) {
    Object.assign(this, { root, engine, facts, graphs: facts.loads, network: facts.network });
    this.later = "later" in root.dataset; // the page's own pictures stay until the network is there
    const chosen = root.dataset.controls?.split(" ") ?? facts.controls.map(({ name }) => name);
    this.controls = new Controls(facts.controls.filter(({ name }) => chosen.includes(name)), (name, value) => this.moved(name, value));
    this.model = new Model({ items: facts.items, status: facts.status }, (message) => this.heard(message));
    this.loader = new Loader(this);
    this.widget = new Widget(this);
    this.build();
    this.loaded = this.graphs.length === 0;
    if (this.loaded) this.begin();
    if (take(root.dataset.live, this.controls, root, (name, value) => this.widget.moved?.(name, value)) && !this.network) this.refresh();
  }

  build() {
    this.root.querySelector(".live-note").after(this.loader.box);
    this.controls.box.disabled = this.network;
    if (!this.later) this.place();
    this.root.classList.add("ready");
    this.widget.placed?.();
  }

  place() {
    this.board = element("div");
    board.render({ model: this.model, el: this.board });
    this.root.querySelector(".memseg-board").replaceWith(this.board);
    this.root.querySelector(".live-body").prepend(this.controls.box);
    if (!this.later && Object.keys(this.controls.values()).length) this.controls.box.append(copier(this.root.dataset.live, this.controls));
  }

  get(name) { // of a control that isn't shown: what it would begin with
    return this.controls.has(name) ? this.controls.get(name) : this.facts.controls.find((one) => one.name === name)?.value;
  }

  set(values) {
    for (const [name, value] of Object.entries(values)) this.controls.put(name, value);
    this.refresh();
  }

  // Loads what is missing; a second call waits for the first
  load() {
    if (this.loaded) return Promise.resolve(true);
    this.loading ??= this.loader.run(this.graphs).finally(() => { this.loading = null; });
    return this.loading;
  }

  begin() {
    if (this.later) this.takeOver();
    this.controls.box.disabled = false;
    this.root.classList.add("running");
    this.widget.begin?.();
  }

  takeOver() { // the page's pictures give way to the widget's, which begin as the same ones, in the same room
    const frames = [...this.root.querySelectorAll(".frame")], captions = this.root.querySelectorAll("figcaption");
    this.stills = frames.map((frame, k) => ({ src: frame.querySelector("img").src, alt: frame.querySelector("img").alt,
      width: Math.floor(frame.clientWidth), caption: captions[k].textContent }));
    this.model.set("items", [{ name: "overlay", clickable: false, newline: false, ...this.stills.at(-1) }]);
    this.place();
  }

  async moved(name, value) { // a widget may say false: nothing to be computed
    if (await this.widget.moved?.(name, value) !== false) this.refresh();
  }

  heard(message) {
    if (message.kind === "click") this.widget.click?.(message.name, message.x, message.y);
  }

  // Computes and shows; while it computes, only the last wish is kept
  async refresh() {
    this.wanted = true;
    if (this.busy) return;
    this.busy = true;
    try {
      while (this.wanted && await this.load()) {
        this.wanted = false;
        await this.widget.update();
      }
    } catch (error) {
      this.model.set("status", `${error.message ?? error}`);
    } finally {
      this.busy = false;
      this.root.dispatchEvent(new CustomEvent("settled"));
    }
  }

  show(items, status) {
    this.model.set("items", items.map((item) => ({ clickable: false, newline: false, caption: "", ...item })));
    this.model.set("status", status);
  }
}

// A button with the size, a bar while it comes, a way to stop, and what to do when it fails
class Loader {
  constructor(panel) {
    this.panel = panel;
    this.start = element("button", { type: "button", className: "live-button first" });
    this.bar = element("div", { className: "live-progress", role: "progressbar", "aria-label": "loading", "aria-valuemin": 0,
      "aria-valuemax": 100, hidden: true }, element("span"));
    this.cancel = element("button", { type: "button", className: "live-button", hidden: true }, "Cancel");
    this.trouble = element("p", { className: "live-trouble", role: "status" });
    this.box = element("div", { className: "live-loader" }, this.start, this.bar, this.cancel, this.trouble);
    this.place = panel.later ? document.querySelector(`[data-start="${panel.root.id}"]`) : null; // elsewhere on the page
    this.place?.replaceChildren(this.start);
    this.start.addEventListener("click", () => {
      if (panel.loaded) panel.root.querySelector(".paper")?.focus(); else panel.refresh();
      if (this.place) panel.root.scrollIntoView({ block: "nearest", behavior: "smooth" });
    });
    this.cancel.addEventListener("click", () => this.stop?.abort());
    panel.engine.addEventListener("loaded", () => { if (this.bar.hidden) this.say(); });
    this.say();
  }

  say(words = this.verb ?? this.place?.dataset.words ?? (this.panel.network ? "Load the network" : "Start")) {
    const bytes = this.panel.engine.bytes(this.panel.graphs);
    this.start.textContent = bytes ? `${words} (${megabytes(bytes)})` : words;
    this.start.hidden = this.panel.graphs.length === 0;
  }

  show(share) {
    const percent = Math.floor(100 * share);
    this.bar.setAttribute("aria-valuenow", percent);
    this.bar.setAttribute("aria-valuetext", percent < 100 ? `${percent} percent` : "making it ready");
    this.bar.firstChild.style.width = `${percent}%`;
  }

  async run(graphs) { // whether it is all there
    const had = this.box.contains(document.activeElement), begun = performance.now();
    this.stop = new AbortController();
    this.trouble.textContent = "";
    this.swap(true);
    if (had) this.cancel.focus();
    this.show(0);
    try {
      await this.panel.engine.open(graphs, { heard: (share) => this.show(share), signal: this.stop.signal });
      this.panel.milliseconds = performance.now() - begun;
      this.panel.loaded = true;
      const here = this.box.contains(document.activeElement);
      this.box.hidden = true;
      if (this.place) Object.assign(this.start, { disabled: false, textContent: this.place.dataset.words });
      this.panel.begin();
      if (here) this.panel.controls.focus();
      return true;
    } catch (error) {
      const stopped = this.stop.signal.aborted;
      const here = this.box.contains(document.activeElement);
      this.trouble.textContent = stopped ? "Stopped. Nothing was kept."
        : `That didn't load: ${error.message}. Look at your connection and try again; the pictures stay as they are.`;
      this.swap(false);
      this.say(stopped ? undefined : "Try again");
      if (here) this.start.focus();
      return false;
    }
  }

  swap(running) {
    if (this.place) this.start.disabled = running; else this.start.hidden = running; // there its room stays
    this.bar.hidden = this.cancel.hidden = !running;
  }
}
