// The home page's painter before the network is loaded: precomputed frames, chosen by a slider or the mouse. Nothing is computed here.
function startPainter(painter) {
  const frames = Number(painter.dataset.frames), threshold = Number(painter.dataset.threshold);
  const scores = JSON.parse(painter.dataset.scores);
  const slider = painter.querySelector("input"), output = painter.querySelector("output");
  const boxes = [...painter.querySelectorAll(".frame")];
  let playing = null;

  function show(frame) {
    const bad = scores[frame] > threshold;
    boxes.forEach((box) => { box.style.backgroundPosition = `${100 * frame / (frames - 1)}% 0`; });
    output.textContent = `score ${scores[frame].toFixed(2)}: ${bad ? "defective" : "good"}`;
    output.classList.toggle("bad", bad);
    slider.value = frame;
    slider.setAttribute("aria-valuetext", frame ? `${Math.round(100 * frame / (frames - 1))} percent of the scratch` : "no scratch");
  }

  function load(box) {
    return new Promise((done) => {
      const strip = new Image();
      strip.onload = () => {
        box.style.backgroundImage = `url("${box.dataset.strip}")`;
        box.style.backgroundSize = `${100 * frames}% 100%`;
        box.classList.add("ready");
        done();
      };
      strip.src = box.dataset.strip;
    });
  }

  function follow(event) {  // the mouse paints, from left to right
    const place = event.currentTarget.getBoundingClientRect();
    const share = ((event.clientX - place.left) / place.width - .15) / .7;
    clearInterval(playing);
    show(Math.round(Math.min(Math.max(share, 0), 1) * (frames - 1)));
  }

  Promise.all(boxes.map(load)).then(() => {
    painter.classList.add("playing");
    slider.addEventListener("input", () => { clearInterval(playing); show(Number(slider.value)); });
    boxes.forEach((box) => box.addEventListener("pointermove", follow));
    show(frames - 1);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    let frame = 0;
    playing = setInterval(() => {
      show(frame);
      if (++frame === frames) clearInterval(playing);
    }, 160);
  });
}

const painter = document.querySelector(".painter[data-frames]");
if (painter) startPainter(painter);

// Which pages of the course were opened here; kept in this browser only
const links = [...document.querySelectorAll(".course-nav [data-page]")];
if (links.length) {
  const key = "memseg-visited";
  let visited = [];
  try { visited = JSON.parse(localStorage.getItem(key) ?? "[]"); } catch { /* switched off, or another program's */ }
  for (const link of links) {
    if (link.ariaCurrent === "page" && !visited.includes(link.dataset.page)) visited.push(link.dataset.page);
    else if (visited.includes(link.dataset.page)) {
      const words = document.createElement("span");
      Object.assign(words, { className: "visited-mark", textContent: "visited" });
      link.append(words);
    }
  }
  try { localStorage.setItem(key, JSON.stringify(visited)); } catch { /* nothing is kept, then */ }
}

for (const text of document.querySelectorAll(".bd-article .highlight > pre")) {
  if (text.closest(".cell_output, .source")) continue;
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "copy-button", textContent: "copy" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "copied";
    } catch { // not on a page without https, or forbidden
      getSelection().selectAllChildren(text);
      button.textContent = "chosen: Ctrl-C";
    }
    button.classList.add("said");
    setTimeout(() => { button.textContent = "copy"; button.classList.remove("said"); }, 2000);
  });
  text.after(button);
}

// Notebooks lie here packed; some hosts unpack them on the way, others don't: the first bytes tell
for (const link of document.querySelectorAll("a[data-packed]")) {
  const name = link.href.split("/").at(-1).replace(".gz", "");
  link.download = `${name}.gz`; // where the browser can't unpack
  link.addEventListener("click", async (event) => {
    if (typeof DecompressionStream !== "function") return;
    event.preventDefault();
    const packed = await (await fetch(link.href)).blob(), [a, b] = new Uint8Array(await packed.slice(0, 2).arrayBuffer());
    const plain = a === 0x1f && b === 0x8b ? await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).blob() : packed;
    const save = Object.assign(document.createElement("a"), { href: URL.createObjectURL(plain), download: name });
    save.click();
    setTimeout(() => URL.revokeObjectURL(save.href), 10000);
  });
}

// Results of the search say what they are
const found = document.querySelector("#search-results");
if (found) {
  const kinds = { course: "course", exercises: "exercise", howto: "how to", live: "laboratory", reference: "reference", source: "source",
    guides: "guide", results: "results" };
  new MutationObserver(() => {
    for (const link of found.querySelectorAll("li > a:not([data-kind])")) {
      const room = new URL(link.href).pathname.split("/").at(-2), kind = document.createElement("span");
      link.dataset.kind = kinds[room] ?? "page";
      Object.assign(kind, { className: "search-kind", textContent: link.dataset.kind });
      link.before(kind, " ");
    }
  }).observe(found, { childList: true, subtree: true });
}
