// Native, labelled inputs from the specification of a widget's controls, which the notebook's widget gave.

let made = 0;

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name in node && name !== "list" && name !== "form") node[name] = value; else node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const digits = (step) => Math.max(0, Math.min(3, Math.ceil(-Math.log10(step) - 1e-9)));

function row(spec, input, ...more) {
  const id = `live-${++made}`;
  input.id = id;
  const box = element("div", { className: `live-row live-${spec.kind}` }, element("label", { htmlFor: id }, spec.label), input, ...more);
  return { box, input };
}

const kinds = {
  range(spec, heard) {
    const input = element("input", { type: "range", min: spec.min, max: spec.max, step: spec.step, value: spec.value });
    const shown = element("output", { className: "live-value" });
    const write = () => { shown.textContent = Number(input.value).toFixed(digits(spec.step)); };
    const made = row(spec, input, shown);
    shown.htmlFor = input.id;
    input.addEventListener("input", () => { write(); heard(Number(input.value)); });
    write();
    return { ...made, get: () => Number(input.value), put: (value) => { input.value = value; write(); } };
  },
  choice(spec, heard) { // a slider along options
    const steps = { ...spec, kind: "range", min: 0, max: spec.options.length - 1, step: 1, value: spec.options.indexOf(spec.value) };
    const made = kinds.range(steps, (place) => { write(); heard(spec.options[place]); });
    const shown = made.box.querySelector("output");
    const write = () => { shown.textContent = made.get(); made.input.setAttribute("aria-valuetext", shown.textContent); };
    const place = made.get;
    made.get = () => spec.options[place()];
    const put = made.put;
    made.put = (value) => { put(spec.options.indexOf(value)); write(); };
    write();
    return made;
  },
  select(spec, heard) {
    const options = spec.options.map((one) => element("option", { value: one, selected: one === spec.value }, one));
    const made = row(spec, element("select", {}, ...options));
    made.input.addEventListener("change", () => heard(made.input.value));
    const offer = (names) => made.input.replaceChildren(...names.map((one) => element("option", { value: one }, one))); // others
    return { ...made, offer, get: () => made.input.value, put: (value) => { made.input.value = value; } };
  },
  colour(spec, heard) {
    const made = row(spec, element("input", { type: "color", value: spec.value }));
    made.input.addEventListener("input", () => heard(made.input.value));
    return { ...made, get: () => made.input.value, put: (value) => { made.input.value = value; } };
  },
  file(spec, heard) {
    const made = row(spec, element("input", { type: "file", accept: spec.accept ?? "image/*" }));
    made.input.addEventListener("change", () => { if (made.input.files.length) heard(made.input.files[0]); });
    return { ...made, get: () => made.input.files[0] ?? null, put: () => {} };
  },
  button(spec, heard) {
    const input = element("button", { type: "button", title: spec.tooltip ?? "", className: "live-button" }, spec.label);
    input.addEventListener("click", () => heard(true));
    return { box: input, input, get: () => null, put: () => {} };
  },
};

export class Controls {
  constructor(specs, heard) { // heard(name, value)
    this.box = element("fieldset", { className: "live-controls" }, element("legend", { className: "live-legend" }, "Controls"));
    this.parts = new Map();
    let buttons = null;
    for (const spec of specs) {
      const part = kinds[spec.kind](spec, (value) => heard(spec.name, value));
      part.input.disabled = spec.disabled ?? false;
      part.keeps = ["file", "button"].includes(spec.kind) ? null : spec;
      this.parts.set(spec.name, part);
      if (spec.kind !== "button") { this.box.append(part.box); buttons = null; continue; }
      if (!buttons) this.box.append(buttons = element("div", { className: "live-buttons" }));
      buttons.append(part.box);
    }
  }

  has(name) { return this.parts.has(name); }
  part(name) { return this.parts.get(name); }
  get(name) { return this.parts.get(name).get(); }
  put(name, value) { this.parts.get(name).put(value); }
  values() { // of all that can be put back, by name
    const kept = [...this.parts].filter(([, part]) => part.keeps);
    return Object.fromEntries(kept.map(([name, part]) => [name, String(part.get())]));
  }

  offer(name, text) { // a value as an address has it; one that the control doesn't have is left alone
    const part = this.parts.get(name), { input, keeps } = part;
    if (!keeps) return;
    const value = typeof part.get() === "number" ? Number(text) : text;
    const there = input.options ? [...input.options].some((one) => one.value === value)
      : keeps.options ? keeps.options.includes(value)
        : input.type === "color" ? /^#[0-9a-f]{6}$/i.test(value) : value >= keeps.min && value <= keeps.max;
    if (there) part.put(value);
  }

  enable(name, on) { if (this.has(name)) this.parts.get(name).input.disabled = !on; }
  focus() { [...this.parts.values()].find(({ input }) => !input.disabled)?.input.focus(); }
}

export { element };
