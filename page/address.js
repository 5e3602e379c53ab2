// What the address says after its #: a job and what is shown of it, as in #job/ID/axial/139.

const SHAPE = /^#job\/([\w-]+)(?:\/(all|axial|coronal|sagittal|render)((?:\/\d+)*))?$/;
const ORDER = ["axial", "coronal", "sagittal"]; // of the numbers in a view of all planes

/** {id, view, numbers} of an address, numbers by plane from 1; null where it names no job. */
export function readAddress(hash) {
  const [, id, view, tail = ""] = SHAPE.exec(hash) ?? [];
  if (!id) return null;
  const said = tail.split("/").slice(1).map(Number);
  const planes = view === "all" ? ORDER : [view];
  const numbers = Object.fromEntries(planes.map((plane, i) => [plane, said[i]]).filter(([, number]) => number));
  return { id, view, numbers };
}

/** The address of a job, and of the slices that are shown: numbers by plane, from 1. */
export function writeAddress(id, view, numbers = {}) {
  const shown = view === "all" ? ORDER : [view];
  return ["#job", id, view, ...shown.map((plane) => numbers[plane])].filter(Boolean).join("/");
}
