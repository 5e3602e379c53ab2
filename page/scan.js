// A scan and its mask in NiiVue: three planes and a rendering, drawn with WebGL 2.

import { openDrawing } from "./drawing.js";

export const PLANES = ["sagittal", "coronal", "axial"]; // the plane across x, y and z
export const WINDOWS = { brain: [0, 80], cta: [-100, 500], bone: [-750, 1750] }; // HU

const TYPES = { axial: 0, coronal: 1, sagittal: 2, all: 3, render: 4 }; // NiiVue's numbers
const QUARTERS = ["axial", "coronal", "sagittal", "render"].map((view, i) => ({
  sliceType: TYPES[view],
  position: [(i % 2) / 2, (i >> 1) / 2, 1 / 2, 1 / 2],
}));
const CLOSE = 1.25; // the rendering fills its quarter
const CROSS = 0.9; // mm: how wide the cross is
const FEW = 1 << 21; // voxels that show an image's range of grey
const REGION = 200; // a region's number in the drawing: above those of the labels
const OPTIONS = {
  backColor: [0, 0, 0, 1],
  crosshairColor: [0.5, 0.43, 0.25, 1],
  crosshairGap: 12,
  crosshairWidth: CROSS,
  crosshairWidthUnit: "mm",
  dragAndDropEnabled: false,
  dragMode: 9, // the right button changes the window
  isOrientationTextVisible: false, // the page writes it, clear of the cross
  isRadiologicalConvention: true,
  loadingText: "",
  logLevel: "error",
  mouseEventConfig: {
    leftButton: { primary: 8, withShift: 3, withCtrl: 3 },
    rightButton: 9,
    centerButton: 3,
  },
  gradientOrder: 2, // see makeLighter
  sagittalNoseLeft: true,
  show3Dcrosshair: false,
  smoothDrawing: 1, // the mask's surface in 3-D is that of `smoothed`
};

/**
 * NiiVue on a canvas. `heard` are functions called when the person moved something: moved(place)
 * with {voxel, mm, value, label, plane}, windowed([low, high]), drawn() after a stroke.
 * Throws where the module is missing or the browser has no WebGL 2.
 */
export async function openScanViewer(canvas, heard) {
  const { Niivue, NVImage } = await import("./vendor/niivue.js");
  measureLess(NVImage);
  const nv = new Niivue(OPTIONS);
  await nv.attachToCanvas(canvas, false);
  nv.scene.volScaleMultiplier = CLOSE;
  const state = { nv, NVImage, labels: null, drawing: null, prepared: null, surface: 1, changes: 0 };
  makeLighter(nv, ({ cal_min: low, cal_max: high }) => heard.windowed([low, high]));
  keepRendering(state);
  const drawing = openDrawing(state, heard.drawn);
  nv.onLocationChange = (place) => heard.moved(placeOf(state, place));
  return {
    prepare: (url) => prepare(state, url),
    load: (urls) => load(state, urls),
    show: (images, look) => show(state, images, look),
    setImage: (url) => setImage(state, url),
    setView: (view) => setView(state, view),
    setWindow: (range) => setWindow(state, range),
    setLook: (look) => setLook(state, look),
    setRegion: (region) => setRegion(state, region),
    setSlice: (plane, index) => setSlice(state, plane, index),
    step: (plane, count) => step(state, plane, count),
    turn: (degrees) => turn(state, degrees),
    zoom: (factor) => zoom(state, factor),
    moveTo: (voxel) => setSlices(state, voxel),
    toMask: () => setSlices(state, middle(nv.drawBitmap, nv.volumes[0].dimsRAS.slice(1, 4))),
    close: () => close(state),
    drawing,
  };
}

/** Begin to load a scan whose mask is still being made. */
function prepare(state, url) {
  if (state.prepared?.url === url) return;
  state.prepared = { url, volume: image(state, url, "scan.nii.gz") };
  state.prepared.volume.catch(() => (state.prepared = null)); // it will be asked for again
}

const image = ({ NVImage }, url, name) => NVImage.loadFromUrl({ url, name, colormap: "gray" });

/** A scan and its mask, to be shown by `show`. */
async function load(state, { scan, mask }) {
  prepare(state, scan);
  const [volume, drawing] = await Promise.all([state.prepared.volume, image(state, mask, "mask.nii.gz")]);
  state.prepared = null;
  return { volume, drawing, url: scan };
}

/** Show scan and mask in place of what is open; the number of slices of each plane. */
function show(state, { volume, drawing, url }, { range, labels, regions }) {
  const { nv } = state;
  close(state);
  state.changes += 1;
  state.isNew = true;
  if (range) [volume.cal_min, volume.cal_max] = range;
  nv.drawLut = lookUp(labels, regions);
  state.pixels = new Map([[url, pixelsOf(volume)]]);
  nv.addVolume(volume);
  if (!nv.loadDrawing(drawing)) throw new Error("The mask does not fit the scan.");
  state.drawing = { hdr: drawing.hdr, permRAS: drawing.permRAS };
  state.labels = regions.length ? nv.drawBitmap.slice() : null;
  return Object.fromEntries(PLANES.map((plane, axis) => [plane, volume.dimsRAS[axis + 1]]));
}

/** Show another image of the same grid below the mask; those that were shown are kept. */
async function setImage(state, url) {
  const { nv, pixels } = state;
  state.wanted = url;
  if (!pixels.has(url)) pixels.set(url, pixelsOf(await image(state, url, "scan.nii.gz")));
  if (state.wanted !== url || state.pixels !== pixels) return; // another was asked for meanwhile
  Object.assign(nv.volumes[0], pixels.get(url));
  state.changes += 1;
  nv.updateGLVolume();
  nv.createOnLocationChange();
}

const pixelsOf = ({ img, cal_min, cal_max }) => ({ img, cal_min, cal_max });

function close({ nv }) {
  if (nv.drawBitmap) nv.closeDrawing();
  if (nv.volumes.length) nv.removeVolume(nv.volumes[0]);
}

/** NiiVue's table of a drawing's colours: labels at their own values, regions after REGION. */
function lookUp(labels, regions) {
  const lut = new Uint8ClampedArray(4 * 256);
  const names = Array(256).fill("");
  const enter = (index, { colour, name }) => {
    lut.set([...rgb(colour), 255], 4 * index);
    names[index] = name;
  };
  labels.forEach((label) => enter(label.value, label));
  regions.forEach((region, i) => enter(REGION + i, region));
  return { lut, labels: names };
}

/** [red, green, blue], 0 to 255, of "#rrggbb". */
export const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

/** Show one region, {index, values}, in its own colour, or every label in its own when null. */
function setRegion(state, region) {
  const { nv, labels } = state;
  const table = Uint8Array.from({ length: 256 }, (_, value) =>
    region === null ? value : region.values.includes(value) ? REGION + region.index : 0);
  nv.drawBitmap = labels.map((value) => table[value]);
  state.changes += 1;
  nv.refreshDrawing();
}

/** How opaque the mask is: its area on slices, its outline there, its surface in 3-D; 0 to 1. */
function setLook(state, look) {
  Object.assign(state, look);
  state.nv.drawOpacity = state.fill || (state.line ? 0.004 : 0); // at 0 there is no outline either
  state.nv.drawRimOpacity = state.line;
  state.nv.drawScene();
}

function setWindow({ nv }, [low, high]) {
  if (!nv.volumes.length) return;
  Object.assign(nv.volumes[0], { cal_min: low, cal_max: high });
  nv.updateGLVolume();
}

function setView({ nv }, view) {
  if (view === "all") nv.setCustomLayout(QUARTERS);
  else nv.clearCustomLayout();
  nv.setSliceType(TYPES[view]);
}

function setSlice(state, plane, index) {
  const voxel = [...state.nv.frac2vox(state.nv.scene.crosshairPos)];
  voxel[PLANES.indexOf(plane)] = index;
  setSlices(state, voxel);
}

function setSlices({ nv }, voxel) {
  nv.scene.crosshairPos = nv.vox2frac(voxel);
  nv.createOnLocationChange();
  nv.drawScene();
}

function step({ nv }, plane, count) {
  nv.moveCrosshairInVox(...PLANES.map((name) => (name === plane ? count : 0)));
}

function turn({ nv }, degrees) {
  nv.setRenderAzimuthElevation(nv.scene.renderAzimuth + degrees, nv.scene.renderElevation);
}

/** Enlarge slices about the cross, and the rendering, by a factor; 0 shows the whole again. */
function zoom({ nv }, factor) {
  const [x, y, z, old] = nv.scene.pan2Dxyzmm;
  const zoomed = factor ? Math.min(20, Math.max(0.5, old * factor)) : 1;
  const cross = nv.frac2mm(nv.scene.crosshairPos);
  const kept = factor ? [x, y, z].map((pan, i) => pan + (old - zoomed) * cross[i]) : [0, 0, 0];
  nv.scene.volScaleMultiplier = CLOSE * zoomed;
  nv.setCrosshairWidth(CROSS / zoomed);
  nv.setPan2Dxyzmm([...kept, zoomed]);
}

function placeOf({ nv }, { vox, mm, values, axCorSag }) {
  const [, width, height] = nv.volumes[0].dimsRAS;
  const label = nv.drawBitmap?.[vox[0] + width * (vox[1] + height * vox[2])] ?? 0;
  const plane = ["axial", "coronal", "sagittal"][axCorSag] ?? null;
  return { voxel: [...vox], mm: [...mm], value: values[0].value, label: nv.drawLut.labels[label], plane };
}

/** The voxel at the middle of a mask, or of the scan where the mask is empty. */
function middle(labels, [width, height, depth]) {
  const sum = [0, 0, 0, 0];
  for (let i = 0; i < labels.length; i += 5) { // a fifth of them is plenty
    if (!labels[i]) continue;
    const row = Math.floor(i / width);
    [i % width, row % height, Math.floor(row / height), 1].forEach((n, axis) => (sum[axis] += n));
  }
  if (!sum[3]) return [width, height, depth].map((n) => n >> 1);
  return sum.slice(0, 3).map((total) => Math.round(total / sum[3]));
}

/* ------------------------------------------------ what NiiVue does more often than it must */

/**
 * NiiVue draws at every call, eight times while a scan is opened: here once a frame. For lit
 * renderings, which this page has none of, it keeps two more copies of the scan in the graphics
 * memory, made anew whenever the window changes: here of one voxel, and never drawn. The mask's
 * surface is smoothed at half the resolution, an eighth of the work. `heard` gets the scan when its
 * window may be another.
 */
function makeLighter(nv, heard) {
  const { gl } = nv;
  const refresh = nv.refreshLayers.bind(nv), texture = nv.rgbaTex.bind(nv);
  nv.drawScene = oncePerFrame(nv.drawScene.bind(nv));
  nv.windowingHandler = oncePerFrame(nv.windowingHandler.bind(nv));
  nv.blurDrawingGL = ([, ...dims]) => setSurface(nv, dims);
  const idle = { drawArrays() {}, framebufferTextureLayer() {}, checkFramebufferStatus: () => gl.FRAMEBUFFER_COMPLETE };
  const first = nv.gradientPrePassShader, use = first.use.bind(first);
  first.use = (...context) => {
    use(...context);
    Object.assign(gl, idle); // until the scan is refreshed
  };
  nv.refreshLayers = (...layer) => {
    refresh(...layer);
    Object.keys(idle).forEach((name) => delete gl[name]);
    heard(layer[0]);
  };
  nv.rgbaTex = (old, unit, dims, ...rest) =>
    texture(old, unit, [gl.TEXTURE6, gl.TEXTURE8].includes(unit) ? [3, 1, 1, 1] : dims, ...rest);
}

/** NiiVue looks for the range of grey at every second voxel: of a large image, at FEW in some slices. */
function measureLess({ prototype }) {
  const measure = prototype.calMinMax;
  if (measure.name === "measureFew") return;
  prototype.calMinMax = function measureFew(...given) {
    const [rank, width, height, depth, ...more] = this.hdr.dims;
    const every = Math.ceil(width * height * depth / FEW), size = width * height;
    if (every < 2 || this.nFrame4D > 1) return measure.apply(this, given);
    const count = Math.floor(depth / every), img = new this.img.constructor(size * count);
    for (let i = 0; i < count; i++) img.set(this.img.subarray(size * i * every, size * (i * every + 1)), size * i);
    const hdr = Object.assign(Object.create(this.hdr), { dims: [rank, width, height, count, ...more] });
    const part = Object.assign(Object.create(this), { img, hdr });
    const found = measure.apply(part, given);
    for (const name of Object.keys(part)) if (!["img", "hdr"].includes(name)) this[name] = part[name];
    return found;
  };
}

/** `work` with what was given last, when the next frame is drawn. */
function oncePerFrame(work) {
  let latest = null;
  return (...given) => {
    if (!latest) {
      requestAnimationFrame(() => {
        const last = latest;
        latest = null;
        work(...last);
      });
    }
    latest = given;
  };
}

/**
 * Draw the rendering only when it changes, and else the picture of it that was kept: without a
 * GPU it takes a second, which every slice would wait for. It has an opacity of its own, too:
 * NiiVue has but one, and an outline's would leave nothing of the surface.
 */
function keepRendering(state) {
  const { nv } = state, { gl } = nv;
  const draw = nv.drawImage3D.bind(nv);
  const kept = { key: "", frame: gl.createFramebuffer(), buffer: gl.createRenderbuffer() };
  nv.drawImage3D = (matrix, ...angles) => {
    const [left, bottom, width, height] = gl.getParameter(gl.VIEWPORT);
    const onScreen = [left, bottom, left + width, bottom + height], inFrame = [0, 0, width, height];
    const { cal_min: low, cal_max: high } = nv.volumes[0];
    const key = [...onScreen, ...matrix, low, high, state.surface, state.changes].join();
    if (nv.uiData.mouseDepthPicker) return draw(matrix, ...angles); // it draws places, no picture
    if (key === kept.key) return copy(gl, kept.frame, inFrame, null, onScreen);
    if (state.isNew) { // slices first: they are there at once
      state.isNew = false;
      return nv.drawScene();
    }
    const onSlices = nv.drawOpacity;
    nv.drawOpacity = state.surface;
    draw(matrix, ...angles);
    nv.drawOpacity = onSlices;
    enlarge(gl, kept, width, height);
    kept.key = key;
    return copy(gl, null, onScreen, kept.frame, inFrame);
  };
}

function enlarge(gl, { frame, buffer }, width, height) {
  gl.bindRenderbuffer(gl.RENDERBUFFER, buffer);
  gl.renderbufferStorage(gl.RENDERBUFFER, gl.RGBA8, width, height);
  gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
  gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.RENDERBUFFER, buffer);
}

/** Copy pixels from a box in one frame buffer to a box in another; null is the canvas. */
function copy(gl, from, source, to, target) {
  gl.bindFramebuffer(gl.READ_FRAMEBUFFER, from);
  gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, to);
  gl.blitFramebuffer(...source, ...target, gl.COLOR_BUFFER_BIT, gl.NEAREST);
  gl.bindFramebuffer(gl.FRAMEBUFFER, null);
}

/** Give NiiVue the field whose half height is the mask's surface. */
function setSurface(nv, dims) {
  const { gl } = nv;
  const half = dims.map((n) => Math.ceil(n / 2));
  gl.deleteTexture(nv.drawSmoothedTexture);
  nv.drawSmoothedTexture = gl.createTexture();
  gl.activeTexture(gl.TEXTURE10);
  gl.bindTexture(gl.TEXTURE_3D, nv.drawSmoothedTexture);
  gl.texStorage3D(gl.TEXTURE_3D, 1, gl.R8, ...half);
  for (const way of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R]) {
    gl.texParameteri(gl.TEXTURE_3D, way, gl.CLAMP_TO_EDGE);
  }
  gl.texParameteri(gl.TEXTURE_3D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
  gl.texParameteri(gl.TEXTURE_3D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, 0, ...half, gl.RED, gl.UNSIGNED_BYTE, smoothed(nv.drawBitmap, dims, half));
}

/** A mask at half its resolution, 0 to 255, each voxel the mean of 3 x 3 x 3. */
function smoothed(bitmap, [width, height, depth], half) {
  const field = new Uint8Array(half[0] * half[1] * half[2]);
  for (let z = 0, i = 0; z < depth; z++) {
    for (let y = 0; y < height; y++) {
      const row = half[0] * ((y >> 1) + half[1] * (z >> 1));
      for (let x = 0; x < width; x++, i++) if (bitmap[i]) field[row + (x >> 1)] += 31; // of 8
    }
  }
  for (const step of [1, half[0], half[0] * half[1]]) average(field, step);
  return field;
}

/** Each value becomes the mean of itself and its neighbours `step` before and after, in place. */
function average(field, step) {
  const before = new Uint8Array(step);
  for (let i = step; i < field.length - step; i++) {
    const kept = field[i];
    field[i] = (before[i % step] + kept + field[i + step]) / 3;
    before[i % step] = kept;
  }
}
