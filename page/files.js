// What was dropped or chosen, sorted into jobs. An entry is {file, path}; path says where in its folder.

const ALONE = /(\.nii(\.gz)?|\.nrrd|\.mha|\.zip|\.png|\.jpe?g)$/i; // a job of its own, wherever it lies
const SKIPPED = /(^|\/)(\.[^/]*|dicomdir|thumbs\.db)$/i;

/** The entries of an <input type="file">. */
export const chosen = (input) =>
  [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));

/** The entries of a drop, folders walked through. Items must be taken before the first await. */
export async function dropped(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const found = items.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  return (await Promise.all(found.filter(Boolean).map(walk))).flat();
}

async function walk(entry) {
  if (entry instanceof File) return [{ file: entry, path: entry.name }];
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, path: entry.fullPath.replace(/^\//, "") }];
  }
  return (await Promise.all((await children(entry)).map(walk))).flat();
}

async function children(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) { // a reader gives a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all;
    all.push(...some);
  }
}

/**
 * Sort entries into jobs: {jobs, cases}, each a list of {name, entries}. A scan, an archive and a
 * picture are jobs of their own; the other files of each folder that was given are taken for one
 * DICOM study. NIfTI files of one folder make one case where the task `isOfCases`.
 */
export function sorted(entries, isOfCases) {
  const kept = entries.filter(({ path }) => !SKIPPED.test(path));
  const cases = isOfCases ? casesOf(kept) : [];
  const inCase = new Set(cases.flatMap((found) => found.entries));
  const rest = kept.filter((entry) => !inCase.has(entry));
  const alone = rest.filter(({ path }) => ALONE.test(path));
  const loose = rest.filter(({ path }) => !ALONE.test(path));
  const jobs = alone.map((entry) => ({ name: baseName(entry.path), entries: [entry] }));
  const given = Map.groupBy(loose, ({ path }) => path.split("/").slice(0, -1)[0]);
  const studies = [...given.values()].map((group) => ({ name: commonName(group), entries: group }));
  return { jobs: [...jobs, ...studies], cases };
}

function casesOf(entries) {
  const scans = entries.filter(({ path }) => /\.(nii(\.gz)?|nrrd|mha)$/i.test(path));
  const folders = Map.groupBy(scans, ({ path }) => path.split("/").slice(0, -1).join("/"));
  return [...folders.values()].map((group) => ({ name: commonName(group), entries: group }));
}

const baseName = (path) => path.split("/").pop();

function commonName(entries) {
  const [folder, ...rest] = entries[0].path.split("/");
  if (rest.length) return folder;
  return entries.length > 1 ? `${entries[0].path} and ${entries.length - 1} more` : folder;
}
