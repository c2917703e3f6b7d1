/** An image as the input of a network, pixel by pixel as in the Python library (Pillow's resampling). */

import { DataError } from "./errors.js";

/** @typedef {import("./artifact.js").Preprocessing} Preprocessing */
/** @typedef {{ data: Uint8ClampedArray | Uint8Array, width: number, height: number }} Image RGBA, as `ImageData` */
/** @typedef {{ data: Uint8Array, width: number, height: number, channels: number }} Pixels */

/**
 * Where an image lies in the input; all pairs are of x and y, in pixels.
 *
 * @typedef {object} Placement
 * @property {[number, number]} image
 * @property {[number, number]} resized its size after resizing
 * @property {[number, number]} corner where its upper left corner lies in the input; below 0 if it is cropped
 * @property {[number, number]} frame width and height of the input
 */

/** Rounds like Python: halves to even. @param {number} value */
function rounded(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest === 0.5 ? below + (below % 2 === 0 ? 0 : 1) : Math.round(value);
}

/**
 * @param {Preprocessing} preprocessing
 * @param {number} width of an image
 * @param {number} height
 * @returns {Placement}
 */
export function place(preprocessing, width, height) {
  const { image_size: size, crop_pct: part, resize = "crop" } = preprocessing;
  const [rows, columns] = Array.isArray(size) ? size : [size, size];
  /** @type {[number, number]} */
  const frame = [columns, rows];
  if (resize === "stretch") return { image: [width, height], resized: frame, corner: [0, 0], frame };
  if (resize === "letterbox") {
    const scale = Math.min(frame[0] / width, frame[1] / height);
    const resized = /** @type {[number, number]} */ ([width, height].map((side) => Math.max(1, rounded(scale * side))));
    return { image: [width, height], resized, corner: [0, 0], frame };
  }
  const shorter = Math.floor(frame[0] / part);
  const longer = Math.trunc((shorter * Math.max(width, height)) / Math.min(width, height));
  /** @type {[number, number]} */
  const resized = width <= height ? [shorter, longer] : [longer, shorter];
  const corner = /** @type {[number, number]} */ (resized.map((side, i) => -rounded((side - frame[i]) / 2)));
  return { image: [width, height], resized, corner, frame };
}

/**
 * An image as the input of a network.
 *
 * @param {Image} image what `getImageData` of a canvas returns; alpha is ignored
 * @param {Preprocessing} preprocessing the network's
 * @returns {Float32Array} numbers of `[channels, height, width]`, a batch of one
 * @throws {DataError} an image without pixels
 */
export function prepare(image, preprocessing) {
  const { width, height, data } = image;
  if (!(width > 0 && height > 0) || data.length !== 4 * width * height) {
    throw new DataError(`an image of ${width} x ${height} pixels has ${data.length} bytes: expected RGBA, 4 per pixel`);
  }
  const { channels, mean, std } = preprocessing;
  const placement = place(preprocessing, width, height);
  const pixels = resize(converted(image, channels), placement.resized, preprocessing.interpolation);
  const [columns, rows] = placement.frame;
  const [left, top] = placement.corner;
  const fill = (preprocessing.fill?.length ? preprocessing.fill : mean).map((value) => rounded(255 * value));
  const input = new Float32Array(channels * rows * columns);
  for (let channel = 0; channel < channels; channel++) {
    const [middle, spread] = [Math.fround(mean[channel]), Math.fround(std[channel])];
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const [column, row] = [x - left, y - top];
        const inside = column >= 0 && row >= 0 && column < pixels.width && row < pixels.height;
        const value = inside ? pixels.data[(row * pixels.width + column) * channels + channel] : fill[channel];
        const share = Math.fround(value / 255);
        input[(channel * rows + y) * columns + x] = Math.fround(Math.fround(share - middle) / spread);
      }
    }
  }
  return input;
}

/** @param {Image} image @param {number} channels @returns {Pixels} */
function converted({ data, width, height }, channels) {
  const pixels = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [red, green, blue] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
    if (channels === 3) pixels.set([red, green, blue], 3 * i);
    else pixels[i] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16; // ITU-R 601, in 16 bits
  }
  return { data: pixels, width, height, channels };
}

// -- resampling -------------------------------------------------------------------------------------------------------

/** @param {number} x */
const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

/** How far a filter reaches, and its weight at a distance. @type {Record<string, [number, (x: number) => number]>} */
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(x * Math.PI)))],
  bicubic: [2, (x) => cubic(Math.abs(x))],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

/** @param {number} x */
function cubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

const BITS = 22; // fractional bits of a weight: Pillow computes in fixed point

/**
 * @param {Pixels} pixels
 * @param {[number, number]} size width and height
 * @param {string} interpolation
 * @returns {Pixels}
 */
function resize(pixels, [width, height], interpolation) {
  if (interpolation === "nearest") return nearest(pixels, width, height);
  // Each pass rounds, so their order matters: this is Pillow 13's; 12 and older start with the width.
  const taller = pixels.height - height;
  const heightFirst = taller > 0 && taller > 2 * (pixels.width - width);
  return [!heightFirst, heightFirst].reduce((found, across) => {
    const [from, to] = across ? [found.width, width] : [found.height, height];
    return from === to ? found : resampled(found, to, interpolation, across);
  }, pixels);
}

/** @param {Pixels} pixels @param {number} width @param {number} height @returns {Pixels} */
function nearest(pixels, width, height) {
  const { channels } = pixels;
  const columns = places(pixels.width, width);
  const rows = places(pixels.height, height);
  const data = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < channels; channel++) {
        data[(y * width + x) * channels + channel] = pixels.data[(rows[y] * pixels.width + columns[x]) * channels + channel];
      }
    }
  }
  return { data, width, height, channels };
}

/** @param {number} from @param {number} to */
function places(from, to) {
  const found = [];
  for (let i = 0, at = (from / to) * 0.5; i < to; i++, at += from / to) found.push(Math.min(from - 1, Math.trunc(at)));
  return found;
}

/** The first source pixel of each target pixel, and the weights. @param {number} from @param {number} to @param {string} name */
function weights(from, to, name) {
  const [reach, filter] = FILTERS[name];
  const scale = from / to;
  const wider = Math.max(scale, 1);
  const found = [];
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach * wider + 0.5));
    const last = Math.min(from, Math.trunc(center + reach * wider + 0.5));
    const parts = [];
    let sum = 0;
    for (let place = first; place < last; place++) {
      const part = filter((place - center + 0.5) * (1 / wider));
      parts.push(part);
      sum += part;
    }
    const whole = parts.map((part) => {
      const share = (sum === 0 ? part : part / sum) * (1 << BITS);
      return Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
    found.push({ first, parts: whole });
  }
  return found;
}

/** One side of an image. @param {Pixels} pixels @param {number} size @param {string} name @param {boolean} across */
function resampled(pixels, size, name, across) {
  const { channels } = pixels;
  const [width, height] = across ? [size, pixels.height] : [pixels.width, size];
  const along = across ? channels : pixels.width * channels; // stride between weighted pixels
  const table = weights(across ? pixels.width : pixels.height, size, name);
  const data = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const { first, parts } = table[across ? x : y];
      const start = across ? (y * pixels.width + first) * channels : (first * pixels.width + x) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (BITS - 1);
        for (let i = 0; i < parts.length; i++) sum += pixels.data[start + i * along + channel] * parts[i];
        data[(y * width + x) * channels + channel] = Math.min(255, Math.max(0, sum >> BITS));
      }
    }
  }
  return { data, width, height, channels };
}
