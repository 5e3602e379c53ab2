// Drawing on the mask that NiiVue shows: a round brush, fill, undo by stroke, and the mask's file.

const AXES = [[0, 1, 2], [0, 2, 1], [1, 2, 0]]; // of an axial, coronal, sagittal slice: two within it, one across
const UINT8 = 2; // NIfTI's number for it
const CLOSE = 1e-3; // mm by which two grids may differ, as in predict/correction.py

/**
 * Make a NiiVue's pen ours: NiiVue hears the mouse, and we paint. Its own pen is square, knows no
 * bone, and sends the whole mask to the graphics memory at every move. `heard` is called when a
 * stroke ends or is undone.
 */
export function openDrawing(state, heard) {
  const { nv } = state;
  const pen = { state, nv, heard, on: false, size: 1, limit: null, strokes: [], stroke: null, saved: undefined };
  const fill = nv.drawPenFilled.bind(nv), refresh = nv.refreshDrawing.bind(nv);
  nv.drawAddUndoBitmap = () => endStroke(pen); // NiiVue calls it when the button is let go
  nv.drawPt = (x, y, z, value) => {
    endStroke(pen); // of a mouse that left the canvas
    pen.stroke = newStroke();
    dab(pen, [x, y, z], value);
  };
  nv.drawPenLine = (from, to, value) => line(pen, from, to, value);
  nv.drawPenFilled = () => fillStroke(pen, fill);
  nv.refreshDrawing = (...given) => (pen.on ? showChanged(pen) : refresh(...given));
  return {
    start: (url) => start(pen, url),
    stop: () => stop(pen),
    setTool: (tool) => setTool(pen, tool),
    undo: () => undo(pen),
    pack: () => pack(pen),
    setSaved: () => setSaved(pen),
    canUndo: () => pen.strokes.length > 0,
    isChanged: () => pen.strokes.at(-1) !== pen.saved,
    measureBrush: (x, y) => measureBrush(pen, x, y),
  };
}

/* ------------------------------------------------ from the file, and back */

/** Begin to draw on the mask that is shown, whose file lies at `url`. Throws where the file could not be made again. */
async function start(pen, url) {
  const { nv, state } = pen, [volume] = nv.volumes, { hdr, permRAS } = state.drawing ?? {};
  if (!hdr || !isSameGrid(hdr, volume.hdr)) throw new Error("The scan that is shown does not lie on the mask's own grid.");
  const file = await unpacked(url), count = nv.drawBitmap.length;
  if (volume !== nv.volumes[0]) throw new Error("Another scan was opened.");
  const [first, places] = [hdr.vox_offset, placesOf(permRAS, hdr.dims)];
  if (hdr.datatypeCode !== UINT8 || file.length < first + count) throw new Error("The mask's file is none of ours.");
  Object.assign(pen, { on: true, strokes: [], stroke: null, saved: undefined, head: file.subarray(0, first), places });
  pen.dims = volume.dimsRAS.slice(1, 4);
  pen.spacing = volume.pixDimsRAS.slice(1, 4);
  if (!isSame(toFile(pen), file.subarray(first, first + count))) {
    stop(pen);
    throw new Error("The mask that is shown is not that of the file; open it again.");
  }
  nv.setDrawingEnabled(true);
}

function isSame(voxels, others) {
  for (let i = 0; i < voxels.length; i++) if (voxels[i] !== others[i]) return false;
  return true;
}

function isSameGrid({ dims, affine }, other) {
  const isClose = (row, i) => row.every((value, j) => Math.abs(value - other.affine[i][j]) <= CLOSE);
  return [1, 2, 3].every((axis) => dims[axis] === other.dims[axis]) && affine.every(isClose);
}

async function unpacked(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Where voxel r of each axis of NiiVue's grid (right, front, head) lies in the file: three tables to be added. */
function placesOf(permRAS, dims) {
  const steps = [1, dims[1], dims[1] * dims[2]];
  return [...permRAS].slice(0, 3).map((way) => {
    const axis = Math.abs(way) - 1, length = dims[axis + 1];
    return Int32Array.from({ length }, (_, r) => steps[axis] * (way < 0 ? length - 1 - r : r));
  });
}

/** The mask in its file's own order. */
function toFile({ nv, places: [xs, ys, zs] }) {
  const voxels = new Uint8Array(nv.drawBitmap.length);
  let i = 0;
  for (const z of zs) for (const y of ys) for (const x of xs) voxels[x + y + z] = nv.drawBitmap[i++];
  return voxels;
}

/** The mask as a packed NIfTI file, under the header of the file that it came from. */
async function pack(pen) {
  endStroke(pen);
  const file = new Blob([pen.head, toFile(pen)]);
  return new Response(file.stream().pipeThrough(new CompressionStream("gzip"))).blob();
}

function stop(pen) {
  endStroke(pen);
  pen.on = false;
  pen.nv.setDrawingEnabled(false);
  Object.assign(pen, { strokes: [], saved: undefined, head: null });
}

/** What is shown is what the file holds; the surface in 3-D follows. */
function setSaved(pen) {
  pen.saved = pen.strokes.at(-1);
  if (pen.state.labels) pen.state.labels = pen.nv.drawBitmap.slice();
  pen.on = false; // for one refresh of all
  pen.state.changes += 1;
  pen.nv.refreshDrawing();
  pen.on = true;
}

/* ------------------------------------------------ strokes */

const newStroke = () => ({ at: [], old: [], box: emptyBox(), fresh: emptyBox() }); // fresh: not yet on the screen
const emptyBox = () => ({ low: [Infinity, Infinity, Infinity], high: [-1, -1, -1] });

/** value: what is painted, 0 to erase; limit: HU above which nothing is painted, or null. */
function setTool(pen, { value, isFilled, size, limit }) {
  Object.assign(pen, { size: isFilled ? 1 : size, limit });
  pen.nv.setPenValue(value, isFilled);
}

/** Paint a disc about a voxel, as far as it hangs together where there is a limit. */
function dab(pen, centre, value) {
  const [across, down, normal] = AXES[pen.nv.drawPenAxCorSag] ?? AXES[0];
  const { dims, spacing, size } = pen;
  const finest = Math.min(spacing[across], spacing[down]);
  const most = (size / 2) ** 2 * finest ** 2;
  const reach = [across, down].map((axis) => Math.floor(size / 2 * finest / spacing[axis]));
  const width = 2 * reach[0] + 1, seen = new Uint8Array(width * (2 * reach[1] + 1));
  const todo = [[0, 0]], voxel = [...centre];
  while (todo.length) {
    const [i, j] = todo.pop(), place = i + reach[0] + width * (j + reach[1]);
    if (Math.abs(i) > reach[0] || Math.abs(j) > reach[1] || seen[place]) continue;
    seen[place] = 1;
    [voxel[across], voxel[down], voxel[normal]] = [centre[across] + i, centre[down] + j, centre[normal]];
    const isInside = voxel.every((at, axis) => at >= 0 && at < dims[axis]);
    if (!isInside || (i * spacing[across]) ** 2 + (j * spacing[down]) ** 2 > most || !put(pen, voxel, value)) continue;
    todo.push([i + 1, j], [i - 1, j], [i, j + 1], [i, j - 1]);
  }
}

/** Give a voxel a value; false where the limit forbids it. */
function put({ nv, stroke, limit, places, dims: [width, height] }, voxel, value) {
  const [x, y, z] = voxel;
  if (value && limit !== null) {
    const { img, hdr } = nv.volumes[0];
    const hu = img[places[0][x] + places[1][y] + places[2][z]] * (hdr.scl_slope || 1) + hdr.scl_inter;
    if (hu > limit) return false;
  }
  const at = x + width * (y + height * z), old = nv.drawBitmap[at];
  if (old === value) return true;
  stroke.at.push(at);
  stroke.old.push(old);
  nv.drawBitmap[at] = value;
  grow(stroke.box, voxel);
  grow(stroke.fresh, voxel);
  return true;
}

function grow({ low, high }, voxel) {
  voxel.forEach((at, axis) => {
    low[axis] = Math.min(low[axis], at);
    high[axis] = Math.max(high[axis], at);
  });
}

function line(pen, from, to, value) {
  pen.stroke ??= newStroke();
  const steps = Math.max(...to.map((at, axis) => Math.abs(at - from[axis])), 1);
  for (let step = 0; step <= steps; step++) {
    dab(pen, to.map((at, axis) => Math.round(from[axis] + (at - from[axis]) * step / steps)), value);
  }
}

/** NiiVue fills what the stroke encloses, in a copy of the mask; we take over what differs in that slice. */
function fillStroke(pen, fill) {
  const { nv, dims: [width, height] } = pen, before = nv.drawBitmap;
  const [first] = nv.drawPenFillPts, normal = (AXES[nv.drawPenAxCorSag] ?? AXES[0])[2];
  const range = [0, 1, 2].map((axis) => (axis === normal ? [first[axis], first[axis]] : [0, pen.dims[axis] - 1]));
  const stroke = pen.stroke ??= newStroke();
  pen.stroke = null; // NiiVue says that the stroke has ended before we have taken it
  fill();
  Object.assign(pen, { stroke });
  const after = nv.drawBitmap;
  nv.drawBitmap = before;
  for (let z = range[2][0]; z <= range[2][1]; z++) {
    for (let y = range[1][0]; y <= range[1][1]; y++) {
      for (let x = range[0][0]; x <= range[0][1]; x++) {
        const at = x + width * (y + height * z);
        if (after[at] !== before[at]) put(pen, [x, y, z], after[at]);
      }
    }
  }
  showChanged(pen);
  endStroke(pen);
}

function endStroke(pen) {
  const { stroke } = pen;
  pen.stroke = null;
  if (!stroke?.at.length) return;
  pen.strokes.push(stroke);
  pen.heard();
}

function undo(pen) {
  endStroke(pen);
  const stroke = pen.strokes.pop();
  if (!stroke) return;
  stroke.at.forEach((at, i) => (pen.nv.drawBitmap[at] = stroke.old[i]));
  showBox(pen, stroke.box);
  pen.nv.drawScene();
  pen.nv.createOnLocationChange(); // the cross may lie on another label now
  pen.heard();
}

/* ------------------------------------------------ on the screen */

function showChanged(pen) {
  const { stroke, nv } = pen;
  if (!stroke) return;
  showBox(pen, stroke.fresh);
  stroke.fresh = emptyBox();
  nv.drawScene();
}

/** Bring a box of the mask into the graphics memory. */
function showBox({ nv, dims: [width, height] }, { low, high }) {
  if (high[0] < 0) return;
  const { gl } = nv;
  const layout = {
    UNPACK_ALIGNMENT: 1, UNPACK_ROW_LENGTH: width, UNPACK_IMAGE_HEIGHT: height,
    UNPACK_SKIP_PIXELS: low[0], UNPACK_SKIP_ROWS: low[1], UNPACK_SKIP_IMAGES: low[2],
  };
  gl.activeTexture(gl.TEXTURE7); // where NiiVue keeps it
  gl.bindTexture(gl.TEXTURE_3D, nv.drawTexture);
  for (const [name, value] of Object.entries(layout)) gl.pixelStorei(gl[name], value);
  const size = high.map((end, axis) => end - low[axis] + 1);
  gl.texSubImage3D(gl.TEXTURE_3D, 0, ...low, ...size, gl.RED, gl.UNSIGNED_BYTE, nv.drawBitmap);
  for (const name of Object.keys(layout)) gl.pixelStorei(gl[name], name === "UNPACK_ALIGNMENT" ? 1 : 0);
}

/** How wide the brush is, in pixels of the page, at a place on the canvas; 0 where there is no slice. */
function measureBrush({ nv, on, size, spacing }, x, y) {
  const ratio = nv.uiData.dpr, slice = nv.screenSlices[nv.tileIndex(x * ratio, y * ratio)];
  if (!on || !(slice?.axCorSag <= 2)) return 0;
  const [across, down] = AXES[slice.axCorSag];
  return size * Math.min(spacing[across], spacing[down]) * Math.abs(slice.leftTopWidthHeight[2] / slice.fovMM[0]) / ratio;
}
