/** The description of a file: `model.onnx.json`, which `adaptive-depth export` writes beside `model.onnx`. */

import { ArtifactError } from "./errors.js";

/**
 * How images become the input of a network; `preprocessing.js` does it.
 *
 * @typedef {object} Preprocessing
 * @property {number | [number, number]} image_size height and width of the input in pixels
 * @property {1 | 3} channels grey or colour
 * @property {number[]} mean one number per channel
 * @property {number[]} std
 * @property {"nearest" | "bilinear" | "bicubic" | "box" | "hamming" | "lanczos"} interpolation
 * @property {number} crop_pct the fraction of a resized image's side that the central crop keeps
 * @property {"crop" | "stretch" | "letterbox"} [resize]
 * @property {number[]} [fill]
 */

/**
 * What depths are judged by.
 *
 * @typedef {object} Quality
 * @property {string} name
 * @property {string} unit
 * @property {boolean} higher_is_better
 */

/**
 * Quality and costs of one depth.
 *
 * @typedef {{ skip: string, accuracy: number, macs: number, parameters: number, latency_ms?: number | null } &
 *   Record<string, any>} Row
 */

/**
 * @typedef {object} TradeOffs
 * @property {Row[]} rows
 * @property {number} [batch_size]
 * @property {Quality} [quality] top-1 accuracy in percent if absent
 */

/**
 * @typedef {object} Meaning
 * @property {"classes" | "labels" | "numbers"} kind
 * @property {string} [unit]
 */

/**
 * @typedef {object} Artifact
 * @property {string} kind
 * @property {string[]} skips the depths in the file, super-net first
 * @property {Record<string, any>[]} stages
 * @property {(number | null)[]} input_shape `[batch, channels, height, width]`; null where any number is allowed
 * @property {string[]} labels class names in the order of the outputs; empty if unknown
 * @property {Preprocessing | null} preprocessing
 * @property {TradeOffs | null} trade_offs
 * @property {string[]} outputs names of the outputs if the network returns several
 * @property {Record<string, Meaning>} meanings
 * @property {Record<string, { bytes: number, crc32: string }>} files
 */

export const FORMAT = "adaptive-depth artifact";
export const VERSION = 5;
/** @type {Quality} */
export const TOP_1 = { name: "top-1", unit: "%", higher_is_better: true };

const INTERPOLATIONS = ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"];

/** @type {(value: unknown) => value is Record<string, any>} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
/** @type {(value: unknown) => value is number} */
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
/** @param {unknown} value */
const isSize = (value) => Number.isInteger(value) && /** @type {number} */ (value) >= 1;
/** @param {unknown} values @param {(value: any) => boolean} fits */
const isListOf = (values, fits) => Array.isArray(values) && values.every(fits);
/** @param {unknown} value */
const isText = (value) => typeof value === "string";

/**
 * Reads a description, and checks everything that this package uses.
 *
 * @param {unknown} content the text of the file, or its parsed content
 * @param {string} [name] of the file, for errors
 * @returns {Artifact}
 * @throws {ArtifactError} foreign, damaged or newer than this package
 */
export function parseArtifact(content, name = "the description") {
  let plain = content;
  if (typeof content === "string") {
    try {
      plain = JSON.parse(content);
    } catch (error) {
      throw new ArtifactError(`${name} cannot be read (${error}): it is damaged; export the network again`);
    }
  }
  if (!isObject(plain) || plain.format !== FORMAT) {
    throw new ArtifactError(`${name} is not from adaptive-depth: expected the .json that its export wrote beside a file`);
  }
  if (!isSize(plain.version) || plain.version > VERSION) {
    throw new ArtifactError(`${name} has version ${plain.version}, but this package reads up to ${VERSION}: update it`);
  }
  if (Array.isArray(plain.inputs) && plain.inputs.length) {
    const names = plain.inputs.map((input) => input?.name).join(", ");
    throw new ArtifactError(
      `${name} is of a network that takes ${names}, and a session here takes one image: run the file with onnxruntime-web ` +
        "itself, and give it the skip as booleans",
    );
  }
  const wrong = whatIsWrong(plain);
  if (wrong) throw new ArtifactError(`${name} is invalid: ${wrong}; it is damaged, export it again`);
  const absent = { labels: [], outputs: [], meanings: {}, preprocessing: null, trade_offs: null };
  return /** @type {Artifact} */ (/** @type {unknown} */ ({ ...absent, ...plain }));
}

/** @param {Record<string, any>} plain @returns {string | undefined} */
function whatIsWrong(plain) {
  const { skips, stages, input_shape: shape, labels, outputs, meanings, files } = plain;
  if (!isListOf(stages, isObject) || !stages.length) return "stages is not a list of objects";
  const letters = new RegExp(`^[TF]{${stages.length}}$`);
  if (!isListOf(skips, (skip) => isText(skip) && letters.test(skip)) || !skips.length || new Set(skips).size < skips.length) {
    return `skips are ${JSON.stringify(skips)}, expected depths of ${stages.length} letters T or F, each once`;
  }
  if (!isListOf(shape, (side) => side === null || isSize(side)) || !shape.length) return "input_shape is not a list of sizes";
  if (labels !== undefined && !isListOf(labels, isText)) return "labels is not a list of names";
  if (outputs !== undefined && !isListOf(outputs, isText)) return "outputs is not a list of names";
  if (meanings !== undefined && !isObject(meanings)) return "meanings is not an object";
  if (!isObject(files) || !Object.keys(files).length) return "it does not name the files it describes";
  for (const [file, told] of Object.entries(files)) {
    if (!isObject(told) || !Number.isInteger(told.bytes) || !/^[0-9a-f]{8}$/.test(told.crc32)) {
      return `files.${file} is ${JSON.stringify(told)}, expected bytes and a crc32 of 8 hexadecimal digits`;
    }
  }
  return inPreprocessing(plain.preprocessing) ?? inTradeOffs(plain.trade_offs, letters);
}

/** @param {unknown} plain @returns {string | undefined} */
function inPreprocessing(plain) {
  if (plain === null || plain === undefined) return undefined;
  if (!isObject(plain)) return "preprocessing is not an object";
  const { image_size: size, channels, mean, std, interpolation, crop_pct: part, resize = "crop", fill = [] } = plain;
  const sides = Array.isArray(size) ? size : [size];
  if (!sides.every(isSize) || sides.length > 2 || Math.max(...sides) > 16384) return `preprocessing.image_size is ${size}`;
  if (channels !== 1 && channels !== 3) return `preprocessing.channels is ${channels}, expected 1 or 3`;
  /** @param {unknown} values */
  const perChannel = (values) => isListOf(values, isNumber) && /** @type {number[]} */ (values).length === channels;
  if (!perChannel(mean) || !perChannel(std) || std.some((/** @type {number} */ value) => value <= 0)) {
    return "preprocessing.mean and std do not have one number per channel";
  }
  if (!INTERPOLATIONS.includes(interpolation)) return `preprocessing.interpolation is ${interpolation}`;
  if (!isNumber(part) || part <= 0 || part > 1) return `preprocessing.crop_pct is ${part}, expected a fraction up to 1`;
  if (!["crop", "stretch", "letterbox"].includes(resize)) return `preprocessing.resize is ${resize}`;
  if (!Array.isArray(fill) || (fill.length && !perChannel(fill))) return "preprocessing.fill is not a colour";
  return undefined;
}

/** @param {unknown} plain @param {RegExp} letters @returns {string | undefined} */
function inTradeOffs(plain, letters) {
  if (plain === null || plain === undefined) return undefined;
  if (!isObject(plain) || !Array.isArray(plain.rows) || !plain.rows.length) return "trade_offs has no rows";
  const { rows, quality, batch_size: batch = 1 } = plain;
  if (!isSize(batch)) return `trade_offs.batch_size is ${batch}`;
  for (const row of rows) {
    const { skip, accuracy, latency_ms: latency = null } = isObject(row) ? row : {};
    if (!letters.test(skip) || !isNumber(accuracy) || !(latency === null || (isNumber(latency) && latency > 0))) {
      return `a row of trade_offs is ${JSON.stringify(row)}, expected a skip, an accuracy and a latency_ms above 0 or null`;
    }
  }
  if (new Set(rows.map((/** @type {Row} */ row) => row.skip)).size < rows.length) return "a depth is listed twice in trade_offs";
  if (quality !== undefined && (!isObject(quality) || typeof quality.higher_is_better !== "boolean")) {
    return "trade_offs.quality has no direction";
  }
  return undefined;
}
