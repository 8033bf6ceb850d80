// Addresses that carry a setting: page.html#studio?product=wood&seed=17
import { element } from "./controls.js";

export function asked(name) { // settings for this widget in the page's address, by control; none: null
  const [widget, values] = decodeURI(location.hash.slice(1)).split("?");
  return widget === name && values ? Object.fromEntries(new URLSearchParams(values)) : null;
}

// Moves the controls to the address's settings; false: there are none
export function take(name, controls, root) {
  const values = asked(name);
  if (!values) return false;
  for (const [key, value] of Object.entries(values)) if (controls.has(key)) controls.offer(key, value);
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
