// Draws what the kernel sends: pictures with their texts, and one line of words that screen readers announce.
// Nothing is computed here. The same elements are kept and changed, so that nothing flickers or loses its place.

function figure(model, name) {
  const box = document.createElement("figure");
  const image = document.createElement("img");
  const caption = document.createElement("figcaption");
  image.draggable = false;
  image.addEventListener("click", (event) => {
    const area = image.getBoundingClientRect();
    const x = (event.clientX - area.left) / area.width, y = (event.clientY - area.top) / area.height;
    model.send({ kind: "click", name, x, y });
  });
  box.append(image, caption);
  return box;
}

function fill(box, item) {
  const [image, caption] = box.children;
  if (image.getAttribute("src") !== item.src) image.src = item.src;
  image.alt = item.alt;
  image.width = item.width;
  image.className = item.clickable ? "clickable" : "";
  caption.textContent = item.caption;
  box.style.width = `${item.width}px`;
}

// ipywidgets writes a slider's label beside it; the part that takes the focus needs it too.
function nameSliders(element) {
  const panel = element.closest(".memseg-panel");
  if (!panel) return;
  for (const row of panel.querySelectorAll(".widget-inline-hbox")) {
    const label = row.querySelector(".widget-label")?.textContent;
    for (const part of row.querySelectorAll("[role=slider], input, select, [contenteditable]"))
      if (label && !part.getAttribute("aria-label")) part.setAttribute("aria-label", label);
  }
}

function render({ model, el }) {
  const status = document.createElement("p"), pictures = document.createElement("div"), boxes = new Map();
  el.classList.add("memseg-board");
  status.className = "status";
  status.setAttribute("role", "status");
  status.setAttribute("aria-live", "polite");
  pictures.className = "pictures";
  el.append(status, pictures);

  const say = () => { if (status.textContent !== model.get("status")) status.textContent = model.get("status"); };
  const draw = () => {
    const items = model.get("items"), wanted = new Set(items.map((item) => item.name));
    for (const [name, box] of boxes) if (!wanted.has(name)) { box.remove(); boxes.delete(name); }
    for (const old of pictures.querySelectorAll(".break")) old.remove();
    items.forEach((item, place) => {
      if (!boxes.has(item.name)) boxes.set(item.name, figure(model, item.name));
      const box = boxes.get(item.name);
      fill(box, item);
      if (pictures.children[place] !== box) pictures.insertBefore(box, pictures.children[place] ?? null);
    });
    for (const item of items) if (item.newline) {
      const end = document.createElement("span");
      end.className = "break";
      boxes.get(item.name).before(end);
    }
    nameSliders(el);
  };
  say();
  draw();
  model.on("change:status", say);
  model.on("change:items", draw);
  const timer = setInterval(() => { if (el.isConnected) nameSliders(el); }, 1000);
  return () => { clearInterval(timer); model.off("change:status", say); model.off("change:items", draw); };
}

export default { render };
