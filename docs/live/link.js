// Addresses that carry a setting: page.html#studio?product=wood&seed=17
import { element } from "./controls.js";

export function asked(name) { // settings for this widget in the page's address, by control; none: null
  const [widget, values] = location.hash.slice(1).split("?");
  return widget === name && values ? Object.fromEntries(new URLSearchParams(values)) : null;
}

// Moves the controls to the address's settings, the product first: others may depend on it; false: there are none
export function take(name, controls, root, moved = () => {}) {
  const values = asked(name);
  if (!values) return false;
  for (const key of Object.keys(values).sort((a, b) => (b === "product") - (a === "product"))) {
    if (!controls.has(key)) continue;
    controls.offer(key, values[key]);
    if (key === "product") moved(key, controls.get(key));
  }
  root.scrollIntoView();
  return true;
}

export function copier(name, controls) { // a button that copies the address of what is shown
  const words = "copy link", button = element("button", { type: "button", className: "live-button" }, words);
  button.addEventListener("click", async () => {
    const address = `${location.href.split("#")[0]}#${name}?${new URLSearchParams(controls.values())}`;
    history.replaceState(null, "", address);
    try {
      await navigator.clipboard.writeText(address);
      button.textContent = "link copied";
    } catch { button.textContent = "link is in the address bar"; }
    setTimeout(() => { button.textContent = words; }, 2500);
  });
  return button;
}
