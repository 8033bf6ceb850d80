// Text to be copied: hidden until its button asks for it, then it follows the controls.
import { element } from "./controls.js";

let made = 0;

export class Listing {
  constructor(what, button) {
    this.button = button;
    this.words = [`show as ${what}`, `hide the ${what}`];
    this.box = element("div", { className: "live-code", id: `live-listing-${++made}`, hidden: true });
    button.setAttribute("aria-controls", this.box.id);
    button.setAttribute("aria-expanded", "false");
  }

  get empty() { return !this.box.childElementCount; }

  toggle() {
    this.box.hidden = !this.box.hidden;
    this.button.textContent = this.words[Number(!this.box.hidden)];
    this.button.setAttribute("aria-expanded", String(!this.box.hidden));
  }

  show({ note, ...parts }) { // the same elements are kept: nobody who reads or has chosen a part of the text loses the place
    if (this.empty) this.build(Object.keys(parts));
    for (const [name, text] of Object.entries(parts))
      if (this.texts[name].textContent !== text) this.texts[name].textContent = text;
    if (this.note.textContent !== note) this.note.textContent = note;
  }

  build(names) {
    this.texts = {};
    this.note = element("p", { className: "live-hint" });
    this.said = element("p", { className: "live-hint", role: "status" });
    for (const name of names) {
      const text = this.texts[name] = element("pre", { tabIndex: 0, "aria-label": name, role: "region" });
      const copy = element("button", { type: "button", className: "live-button", "aria-label": `copy ${name}` }, "copy");
      copy.addEventListener("click", () => this.copy(name));
      this.box.append(element("div", { className: "live-code-head" }, element("b", {}, name), copy), text);
    }
    this.box.append(this.note, this.said);
  }

  async copy(name) {
    const text = this.texts[name];
    try {
      await navigator.clipboard.writeText(text.textContent);
      this.said.textContent = `${name}: copied.`;
    } catch { // not on a page without https, or forbidden: choose it, so that Ctrl-C does it
      getSelection().selectAllChildren(text);
      text.focus();
      this.said.textContent = `${name}: chosen; copy it with Ctrl-C.`;
    }
  }
}
