// A slice that came as a picture, and its mask, drawn on a plain canvas.

/** Load both pictures; returns a function that draws them onto `canvas`, with the
 * mask's `fill` and outline (`line`) as opaque as it is told, 0 to 1. */
export async function openPicture(canvas, pictureUrl, maskUrl, colour) {
  const [picture, mask] = await Promise.all([pixels(pictureUrl), pixels(maskUrl)]);
  const inside = Uint8Array.from({ length: mask.width * mask.height }, (_, i) => mask.data[4 * i] > 127);
  const edge = edgeOf(inside, mask.width, mask.height);
  return (look) => draw(canvas, picture, inside, edge, colour, look);
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

/** 1 on the outermost pixels of a mask, as the outline of the overlay that can be downloaded. */
function edgeOf(inside, width, height) {
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside[y * width + x];
  return inside.map((value, i) => {
    const x = i % width, y = (i - x) / width;
    return value && !(at(x - 1, y) && at(x + 1, y) && at(x, y - 1) && at(x, y + 1));
  });
}

function draw(canvas, picture, inside, edge, colour, { fill, line }) {
  const { width, height } = picture;
  const image = new ImageData(new Uint8ClampedArray(picture.data), width, height);
  inside.forEach((value, i) => value && blend(image.data, 4 * i, colour, edge[i] ? line : fill));
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function blend(data, at, colour, share) {
  for (let band = 0; band < 3; band++) {
    data[at + band] += share * (colour[band] - data[at + band]);
  }
}
