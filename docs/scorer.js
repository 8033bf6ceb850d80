// What comes first in the search: lessons and short answers before listings; and the page that a common question means.
const ROOMS = { howto: 8, live: 8, course: 6, guides: 5, results: 4, reference: 3, exercises: 0, source: -12 };
const MEANT = { "own photos": "live/photos", "own data": "howto/own-data", install: "overview", auroc: "course/metrics",
  "memory bank": "course/memory", memory: "course/memory", threshold: "course/thresholds", export: "howto/export" };
const asked = (new URLSearchParams(window.location.search).get("q") ?? "").trim().toLowerCase();
var Scorer = {
  score: ([page, , , , score]) => score + (ROOMS[page.split("/")[0]] ?? 2) + (MEANT[asked] === page ? 100 : 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
