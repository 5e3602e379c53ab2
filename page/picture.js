// A slice that came as a picture, and its mask, drawn on a plain canvas.

import { rgb } from "./scan.js";

/** Load both pictures; returns a function that draws them onto `canvas`, with the mask's `fill` and
 * outline (`line`) as opaque as it is told, 0 to 1: all `labels`, or one region in its own colour. */
export async function openPicture(canvas, pictureUrl, maskUrl, labels) {
  const [picture, mask] = await Promise.all([pixels(pictureUrl), pixels(maskUrl)]);
  const values = Uint8Array.from({ length: mask.width * mask.height }, (_, i) => mask.data[4 * i]);
  return (look, region = null) => {
    const colours = coloursOf(labels, region);
    const shown = values.map((value) => (colours[value] ? value : 0));
    draw(canvas, picture, shown, edgeOf(shown, mask.width, mask.height), colours, look);
  };
}

async function pixels(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const { naturalWidth: width, naturalHeight: height } = image;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** The colour of each value of a mask that is shown; the only label's is stored as 255. */
function coloursOf(labels, region) {
  if (region) return Object.fromEntries(region.values.map((value) => [value, rgb(region.colour)]));
  if (labels.length === 1) return { [labels[0].value]: rgb(labels[0].colour), 255: rgb(labels[0].colour) };
  return Object.fromEntries(labels.map(({ value, colour }) => [value, rgb(colour)]));
}

/** 1 on the outermost pixels of each label, as the outline of the overlay that can be downloaded. */
function edgeOf(values, width, height) {
  const at = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? values[y * width + x] : 0);
  return values.map((value, i) => {
    const x = i % width, y = (i - x) / width;
    return value && [at(x - 1, y), at(x + 1, y), at(x, y - 1), at(x, y + 1)].some((other) => other !== value);
  });
}

function draw(canvas, picture, values, edge, colours, { fill, line }) {
  const { width, height } = picture;
  const image = new ImageData(new Uint8ClampedArray(picture.data), width, height);
  values.forEach((value, i) => value && blend(image.data, 4 * i, colours[value], edge[i] ? line : fill));
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function blend(data, at, colour, share) {
  for (let band = 0; band < 3; band++) {
    data[at + band] += share * (colour[band] - data[at + band]);
  }
}
