/** A file with several depths of one network, ready to run: the same for onnxruntime-web and onnxruntime-node. */

import { parseArtifact } from "./artifact.js";
import { crc32 } from "./crc32.js";
import { AdaptiveDepthError, ArtifactError, DataError, SkipError } from "./errors.js";

/** @typedef {import("./artifact.js").Artifact} Artifact */
/** @typedef {{ data: Float32Array, dims: readonly number[] }} Output */

/**
 * The required part of onnxruntime-web or onnxruntime-node: `import * as ort from "onnxruntime-web/wasm"`.
 *
 * @typedef {object} Runtime
 * @property {{ create(model: any, options?: any): Promise<any> }} InferenceSession
 * @property {new (type: any, data: any, dims?: readonly number[]) => any} Tensor
 */

/**
 * @typedef {object} Opening
 * @property {Runtime} ort
 * @property {any[]} [executionProviders] where it runs, such as `["webgpu", "wasm"]`; the runtime's own by default
 * @property {Record<string, any>} [options] further options of `InferenceSession.create`
 * @property {(loaded: number, total: number) => void} [onProgress] called with bytes while the file is fetched
 */

/**
 * Opens a file with several depths.
 *
 * @param {string | URL | { model: Uint8Array, sidecar: unknown, name?: string }} source where `model.onnx` is, with
 *   `model.onnx.json` beside it; or the bytes of both
 * @param {Opening} opening
 * @returns {Promise<Session>}
 * @throws {ArtifactError} a file that cannot be fetched, is damaged, or does not belong to the description; an
 *   unavailable provider
 * @example
 * const session = await openSession("model.onnx", { ort });
 * const { data } = await session.run(prepare(image, session.artifact.preprocessing), { skip: "TTFF" });
 */
export async function openSession(source, { ort, executionProviders, options = {}, onProgress }) {
  const given = typeof source === "string" || source instanceof URL ? await fetched(String(source), onProgress) : source;
  const name = given.name ?? "model.onnx";
  const artifact = parseArtifact(given.sidecar, `${name}.json`);
  const told = artifact.files[name];
  if (!told) {
    const files = Object.keys(artifact.files).join(", ");
    throw new ArtifactError(`${name}.json describes ${files}, not ${name}: copy both files of one export`);
  }
  const found = { bytes: given.model.length, crc32: crc32(given.model) };
  if (found.bytes !== told.bytes || found.crc32 !== told.crc32) {
    throw new ArtifactError(
      `${name} does not match its description (${found.bytes} bytes, checksum ${found.crc32}; expected ` +
        `${told.bytes} bytes, ${told.crc32}): it is damaged, or from another export; copy both files again`,
    );
  }
  let opened;
  try {
    opened = await ort.InferenceSession.create(given.model, {
      ...options,
      ...(executionProviders ? { executionProviders } : {}),
    });
  } catch (error) {
    const where = executionProviders ? ` on ${executionProviders.map((each) => each.name ?? each).join(", ")}` : "";
    throw new ArtifactError(`${name} cannot be opened${where} (${said(error)}): choose other executionProviders`);
  }
  return new Session(opened, artifact, ort);
}

/** Ready to run; made by `openSession`. */
export class Session {
  /** @param {any} opened @param {Artifact} artifact @param {Runtime} ort */
  constructor(opened, artifact, ort) {
    this.artifact = artifact;
    this.skips = artifact.skips;
    this._opened = opened;
    this._ort = ort;
    this._flags = new Map(this.skips.map((skip) => [skip, Uint8Array.from(skip, (letter) => Number(letter === "T"))]));
    /** @type {Promise<unknown>} */
    this._last = Promise.resolve();
  }

  /**
   * The output of one depth. Concurrent calls wait for each other.
   *
   * @param {Float32Array} x numbers of `[batch, channels, height, width]`, such as from `prepare`
   * @param {{ skip?: string, shape?: readonly number[] }} [how] the depth, by default the deepest; the shape of `x`,
   *   by default the file's, with a batch that follows from the length of `x`
   * @returns {Promise<any>} an `Output`; if the network returns several, an object of them by name
   * @throws {SkipError} a depth that is not in the file
   * @throws {DataError} an input of another shape
   * @throws {ArtifactError} the runtime failed
   */
  async run(x, { skip = this.skips[0], shape } = {}) {
    const flags = this._flags.get(skip);
    if (!flags) throw new SkipError(`skip '${skip}' is not in this file: expected one of ${this.skips.join(", ")}`);
    const dims = shape ?? this._shapeOf(x);
    this._check(x, dims);
    const { Tensor } = this._ort;
    const turn = this._last.then(async () => {
      const feeds = { image: new Tensor("float32", x, dims), skip: new Tensor("bool", flags, [flags.length]) };
      try {
        return await this._opened.run(feeds);
      } catch (error) {
        throw new ArtifactError(`the runtime failed at depth ${skip} with input [${dims.join(", ")}]: ${said(error)}`);
      }
    });
    this._last = turn.catch(() => {});
    const outputs = await turn;
    if (!this.artifact.outputs.length) return plain(Object.values(outputs)[0]);
    return Object.fromEntries(this.artifact.outputs.map((name) => [name, plain(outputs[name])]));
  }

  /** Frees the runtime's resources, once pending calls are done. */
  async release() {
    await this._last;
    await this._opened.release();
  }

  /** @param {Float32Array} x @returns {number[]} */
  _shapeOf(x) {
    const [batch, ...rest] = this.artifact.input_shape;
    if (rest.includes(null)) throw new DataError("this network takes images of any size: pass their shape, too");
    const sample = rest.reduce((/** @type {number} */ size, side) => size * Number(side), 1);
    return [batch ?? x.length / sample, .../** @type {number[]} */ (rest)];
  }

  /** @param {Float32Array} x @param {readonly number[]} dims */
  _check(x, dims) {
    const wanted = this.artifact.input_shape;
    const fits =
      dims.length === wanted.length &&
      dims.every((size, i) => Number.isInteger(size) && size > 0 && (wanted[i] ?? size) === size) &&
      x instanceof Float32Array &&
      x.length === dims.reduce((product, size) => product * size, 1);
    if (!fits) {
      const expected = wanted.map((side, i) => side ?? (i ? "any" : "batch")).join(", ");
      const received = x instanceof Float32Array ? `${x.length} numbers of shape [${dims.join(", ")}]` : typeof x;
      throw new DataError(`a session received ${received}: expected a Float32Array of [${expected}]`);
    }
  }
}

/** @param {any} output @returns {Output} */
const plain = ({ data, dims }) => ({ data, dims });

/** @param {unknown} error */
const said = (error) => String(error instanceof Error ? error.message : error).split(/\s+/).join(" ").slice(0, 300);

/**
 * @param {string} url
 * @param {((loaded: number, total: number) => void)} [onProgress]
 */
async function fetched(url, onProgress) {
  const name = decodeURIComponent(new URL(url, "file:///").pathname.split("/").pop() || "model.onnx");
  const beside = url.replace(/([^?#]*)/, "$1.json");
  const sidecar = new TextDecoder().decode(await bytesOf(beside, "the description beside a file"));
  return { model: await bytesOf(url, "a file that adaptive-depth export wrote", onProgress), sidecar, name };
}

const NODE_FILES = "node:fs/promises"; // a variable, so that bundlers do not resolve it

/**
 * In Node, the path of a local file; undefined for anything else.
 * @param {string} url
 * @returns {string | URL | undefined}
 */
function localFile(url) {
  if (typeof process === "undefined" || !process.versions?.node) return undefined;
  if (url.startsWith("file:")) return new URL(url);
  return /^[a-z][a-z0-9+.-]+:/i.test(url) ? undefined : url;
}

/**
 * @param {string} url
 * @param {string} what
 * @param {((loaded: number, total: number) => void)} [onProgress]
 */
async function bytesOf(url, what, onProgress) {
  const file = localFile(url);
  if (file !== undefined) {
    try {
      const { readFile } = await import(NODE_FILES);
      const whole = new Uint8Array(await readFile(file));
      onProgress?.(whole.length, whole.length);
      return whole;
    } catch (error) {
      throw new ArtifactError(`${url} cannot be read (${said(error)}): expected ${what}`);
    }
  }
  try {
    const response = await fetch(url);
    if (!response.ok || !response.body) throw new ArtifactError(`${url} returned ${response.status}: expected ${what}`);
    const total = Number(response.headers.get("content-length") ?? 0);
    const parts = [];
    let loaded = 0;
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      loaded += value.length;
      onProgress?.(loaded, Math.max(loaded, total));
    }
    const whole = new Uint8Array(loaded);
    let place = 0;
    for (const part of parts) {
      whole.set(part, place);
      place += part.length;
    }
    return whole;
  } catch (error) {
    if (error instanceof AdaptiveDepthError) throw error;
    throw new ArtifactError(`${url} cannot be fetched (${said(error)}): expected ${what}`);
  }
}
