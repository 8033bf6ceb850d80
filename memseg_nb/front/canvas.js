// The picture that is painted on. It shows what the kernel sends and tells where the brush went; the kernel paints.
// Points wait here while the kernel is busy, so that the answer never lags far behind the hand.

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const clamp = (value, top) => Math.min(Math.max(value, 0), top);

function render({ model, el }) {
  const box = document.createElement("div"), image = document.createElement("img");
  const brush = document.createElement("span"), help = document.createElement("p"), where = document.createElement("p");
  el.classList.add("memseg-canvas");
  box.className = "paper";
  box.tabIndex = 0;
  box.setAttribute("role", "application");
  box.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab leaves the arrow keys to us
  brush.className = "brush";
  image.draggable = false;
  help.className = where.className = "help";
  where.setAttribute("role", "status");
  help.textContent = "Drag to paint. Or: arrow keys move the brush (Shift: further), Space paints, U takes back.";
  box.append(image, brush);
  el.append(box, help, where);

  let strokes = [], current = null, busy = false, cursor = [model.get("columns") >> 1, model.get("rows") >> 1];
  const size = () => [model.get("columns"), model.get("rows")];
  const flush = () => {
    while (!busy && strokes.length) {
      const stroke = strokes[0], { points, sent } = stroke;
      if (points.length > sent) {
        busy = true;
        model.send({ kind: "paint", points: points.slice(Math.max(sent - 1, 0)), fresh: sent === 0 });
        stroke.sent = points.length;
      } else if (stroke === current) return;
      else strokes.shift();
    }
  };
  const place = (x, y) => {
    const [columns, rows] = size();
    cursor = [clamp(Math.round(x), columns - 1), clamp(Math.round(y), rows - 1)];
    move();
  };
  const move = () => {
    const [columns, rows] = size(), [x, y] = cursor, wide = 2 * model.get("radius") + 1;
    brush.style.left = `${(x + .5) / columns * 100}%`;
    brush.style.top = `${(y + .5) / rows * 100}%`;
    brush.style.width = `${wide / columns * 100}%`;
    brush.style.height = `${wide / rows * 100}%`;
  };
  const draw = () => {
    image.src = model.get("src");
    image.alt = model.get("alt");
    box.setAttribute("aria-label", `${model.get("alt")}. ${help.textContent}`);
    box.style.width = `${model.get("width")}px`;
    move();
  };
  const paint = () => { if (current) { current.points.push(cursor); flush(); } };
  const follow = (event) => {
    const area = image.getBoundingClientRect(), [columns, rows] = size();
    place((event.clientX - area.left) / area.width * columns - .5, (event.clientY - area.top) / area.height * rows - .5);
    paint();
  };
  const start = () => strokes.push(current = { points: [], sent: 0 });
  const stop = () => { current = null; flush(); };

  box.addEventListener("pointerdown", (event) => {
    box.setPointerCapture(event.pointerId);
    box.focus({ preventScroll: true });
    start();
    follow(event);
    event.preventDefault();
  });
  box.addEventListener("pointermove", follow);
  box.addEventListener("pointerup", stop);
  box.addEventListener("pointercancel", stop);
  box.addEventListener("keydown", (event) => {
    const [x, y] = cursor, step = event.shiftKey ? 8 : 1, way = KEYS[event.key];
    if (way) {
      place(x + way[0] * step, y + way[1] * step);
      paint();
      where.textContent = `Brush at column ${cursor[0] + 1}, row ${cursor[1] + 1}.`;
    } else if (event.key === " ") {
      if (!current) { start(); paint(); }
    } else if (event.key === "u" || event.key === "U") model.send({ kind: "undo" });
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  box.addEventListener("keyup", (event) => { if (event.key === " ") stop(); });
  box.addEventListener("blur", stop);
  const answered = () => { busy = false; flush(); };
  const heard = { "msg:custom": answered, "change:src": draw, "change:alt": draw, "change:radius": move };
  for (const [name, react] of Object.entries(heard)) model.on(name, react);
  draw();
  return () => { for (const [name, react] of Object.entries(heard)) model.off(name, react); };
}

export default { render };
