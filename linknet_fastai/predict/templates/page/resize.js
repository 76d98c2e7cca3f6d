// Bilinear resizing with antialiasing, equal to that of Pillow (its Resample.c), which linknet-fastai predicts with.

const BITS = 22; // a weight of 1 is 2 ** 22
const HALF = 1 << (BITS - 1);

/** For each of `to` pixels: the first of `from` pixels that count, how many, and their weights, `most` apart. */
function weigh(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  const most = 2 * Math.ceil(support) + 1;
  const first = new Int32Array(to), count = new Int32Array(to), weights = new Int32Array(to * most);
  for (let pixel = 0; pixel < to; pixel++) {
    const center = (pixel + 0.5) * scale;
    first[pixel] = Math.max(Math.trunc(center - support + 0.5), 0);
    count[pixel] = Math.min(Math.trunc(center + support + 0.5), from) - first[pixel];
    const values = Array.from({ length: count[pixel] }, (_, i) =>
      Math.max(1 - Math.abs((i + first[pixel] - center + 0.5) * (1 / support)), 0),
    );
    const sum = values.reduce((total, value) => total + value);
    values.forEach((value, i) => (weights[pixel * most + i] = Math.trunc(0.5 + (value / sum) * (1 << BITS))));
  }
  return { first, count, weights, most };
}

function resizeRows(pixels, width, height, to) {
  const { first, count, weights, most } = weigh(width, to);
  const result = new Uint8Array(3 * to * height);
  for (let y = 0, target = 0; y < height; y++) {
    for (let x = 0; x < to; x++, target += 3) {
      let red = HALF, green = HALF, blue = HALF;
      let source = 4 * (y * width + first[x]);
      for (let i = x * most, end = i + count[x]; i < end; i++, source += 4) {
        red += pixels[source] * weights[i];
        green += pixels[source + 1] * weights[i];
        blue += pixels[source + 2] * weights[i];
      }
      result[target] = red >> BITS;
      result[target + 1] = green >> BITS;
      result[target + 2] = blue >> BITS;
    }
  }
  return result;
}

function resizeColumns(pixels, width, height, to) {
  const { first, count, weights, most } = weigh(height, to);
  const row = 3 * width;
  const result = new Uint8Array(row * to);
  const sums = new Int32Array(row);
  for (let y = 0; y < to; y++) {
    sums.fill(HALF);
    for (let i = 0; i < count[y]; i++) {
      const weight = weights[y * most + i], source = (first[y] + i) * row;
      for (let x = 0; x < row; x++) sums[x] += pixels[source + x] * weight;
    }
    for (let x = 0; x < row; x++) result[y * row + x] = sums[x] >> BITS;
  }
  return result;
}

function withoutAlpha(pixels) {
  const result = new Uint8Array((pixels.length / 4) * 3);
  for (let source = 0, target = 0; source < pixels.length; source += 4) {
    result[target++] = pixels[source];
    result[target++] = pixels[source + 1];
    result[target++] = pixels[source + 2];
  }
  return result;
}

/** Resize `pixels`, RGBA of a (width, height), to RGB of another; alpha is dropped. */
export function resized(pixels, [width, height], [toWidth, toHeight]) {
  const rows = width === toWidth ? withoutAlpha(pixels) : resizeRows(pixels, width, height, toWidth);
  return height === toHeight ? rows : resizeColumns(rows, toWidth, height, toHeight);
}
