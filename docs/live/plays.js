// A lesson's widget whose states were all computed when the page was made: moving a control shows another one.
import board from "./board.js";
import { Controls, element } from "./controls.js";
import { download } from "./engine.js";
import { copier, take } from "./link.js";
import { Model } from "./model.js";

export async function play(root) {
  const place = new URL(root.dataset.play, document.baseURI).href;
  const { controls, items: known, states } = JSON.parse(new TextDecoder().decode(await download(place)));
  const at = (k) => ({ clickable: false, ...known[k], src: new URL(known[k].src, place).href });
  const state = (inputs) => {
    const [status, items] = states[controls.reduce((sum, { name, options }) => sum * options.length + options.indexOf(inputs.get(name)), 0)];
    return { status, items };
  };
  const show = () => {
    const { status, items } = state(inputs);
    model.set("items", items.map(at));
    model.set("status", status);
  };
  const inputs = new Controls(controls, show);
  const first = state(inputs), model = new Model({ items: first.items.map(at), status: first.status }), shown = element("div");
  board.render({ model, el: shown });
  root.querySelector(".memseg-board").replaceWith(shown);
  root.querySelector(".live-body").prepend(inputs.box);
  inputs.box.append(copier(root.id, inputs));
  if (take(root.id, inputs, root)) show();
  root.classList.add("ready", "running");
}
