/** With a file that the Python library exported: EXPORTED names its folder, as tests/javascript/test_package.py does. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

import * as ort from "onnxruntime-web";

import { ArtifactError, Governor, openSession, parseArtifact, profiled, read } from "../src/index.js";

const folder = process.env.EXPORTED;
const skip = folder ? false : "EXPORTED names no folder";
const file = (/** @type {string} */ name) => readFileSync(`${folder}/${name}`);
const given = () => ({ model: new Uint8Array(file("model.onnx")), sidecar: file("model.onnx.json").toString() });
const expected = () => JSON.parse(file("expected.json").toString());
const opened = () => openSession(given(), { ort, executionProviders: ["wasm"] });

test("a file of this computer is opened by its path, in Node", { skip }, async () => {
  for (const place of [`${folder}/model.onnx`, pathToFileURL(`${folder}/model.onnx`)]) {
    const session = await openSession(place, { ort, executionProviders: ["wasm"] });
    assert.deepEqual(session.skips, Object.keys(expected().outputs));
    await session.release();
  }
  await assert.rejects(openSession(`${folder}/none.onnx`, { ort }), /none.onnx.json cannot be read .*ENOENT/);
});

test("every depth gives what the network gives, also where calls come at once", { skip }, async () => {
  const session = await opened();
  const { x, outputs } = expected();
  assert.deepEqual(session.skips, Object.keys(outputs));
  const input = Float32Array.from(x);
  const found = await Promise.all(session.skips.map((skip) => session.run(input, { skip })));
  session.skips.forEach((skip, place) => {
    found[place].data.forEach((/** @type {number} */ value, /** @type {number} */ i) => {
      assert.ok(Math.abs(value - outputs[skip][i]) < 1e-4, `${skip}, output ${i}: ${value} and ${outputs[skip][i]}`);
    });
  });
  assert.deepEqual((await session.run(input)).data, found[0].data);
  const two = await session.run(Float32Array.from([...x, ...x]));
  assert.deepEqual(two.dims.slice(0, 1), [2]);
  await session.release();
});

test("what a file says, and a governor over it", { skip }, async () => {
  const session = await opened();
  const { artifact } = session;
  assert.deepEqual(artifact.labels, ["ant", "bee", "cat", "dog"]);
  const table = await profiled(session, /** @type {any} */ (artifact.trade_offs), { rounds: 3 });
  assert.ok(table.rows.every((row) => /** @type {number} */ (row.latency_ms) > 0));
  const governor = new Governor(table, { targetMs: 1e6 });
  assert.equal(governor.choose(), governor.skips.at(-1));
  const [{ classes }] = read(await session.run(Float32Array.from(expected().x)), artifact);
  assert.equal(classes[0].name, artifact.labels[expected().best]);
  assert.ok(Math.abs(classes.reduce((sum, { score }) => sum + score, 0) - 1) < 1e-9);
});

test("depths and inputs that do not fit", { skip }, async () => {
  const session = await opened();
  const input = Float32Array.from(expected().x);
  await assert.rejects(session.run(input, { skip: "TTTTT" }), { name: "SkipError", message: /'TTTTT' is not in this file/ });
  await assert.rejects(session.run(input.slice(1)), { name: "DataError", message: /expected a Float32Array of \[batch, 3/ });
  await assert.rejects(session.run(/** @type {any} */ (expected().x)), { name: "DataError" });
  await assert.rejects(session.run(input, { shape: [1, 3, 4, 16] }), { name: "DataError" });
  assert.equal((await session.run(input)).data.length, 4); // and it runs on
});

test("files that are damaged, or of different exports", { skip }, async () => {
  const { model, sidecar } = given();
  const other = Uint8Array.from(model);
  other[other.length >> 1] ^= 1;
  await assert.rejects(openSession({ model: other, sidecar }, { ort }), /model.onnx does not match its description/);
  await assert.rejects(openSession({ model: model.slice(9), sidecar }, { ort }), /is damaged, or from another export/);
  await assert.rejects(openSession({ model, sidecar, name: "b.onnx" }, { ort }), /describes model.onnx, not b.onnx/);
  await assert.rejects(openSession({ model, sidecar: "{" }, { ort }), /model.onnx.json cannot be read/);
  const none = openSession({ model, sidecar }, { ort, executionProviders: ["nowhere"] });
  await assert.rejects(none, /cannot be opened on nowhere .*choose other executionProviders/);
  for (const [change, message] of [
    [{ format: "x" }, /is not from adaptive-depth/],
    [{ version: 99 }, /has version 99, but this package reads up to 5/],
    [{ version: 5, inputs: [{ name: "left" }, { name: "right" }] }, /takes left, right, and a session here takes one image/],
    [{ skips: [] }, /skips are \[\]/],
    [{ skips: ["FF", "FF"] }, /each once/],
    [{ input_shape: [0] }, /input_shape/],
    [{ labels: [1] }, /labels/],
    [{ files: {} }, /the files it describes/],
    [{ files: { "model.onnx": { bytes: 1, crc32: "?" } } }, /8 hexadecimal digits/],
    [{ preprocessing: { image_size: 0 } }, /image_size is 0/],
    [{ trade_offs: { rows: [{ skip: "FF", accuracy: "80" }] } }, /a row of trade_offs/],
  ]) {
    const damaged = { ...JSON.parse(sidecar), .../** @type {object} */ (change) };
    assert.throws(() => parseArtifact(damaged), (/** @type {any} */ error) => {
      assert.ok(error instanceof ArtifactError);
      assert.match(error.message, /** @type {RegExp} */ (message));
      return true;
    });
  }
});

test("by its address, with progress; and what is not there", { skip }, async () => {
  const server = createServer((request, response) => {
    const name = new URL(String(request.url), "http://localhost").pathname.slice(1);
    const known = ["model.onnx", "model.onnx.json"].includes(name);
    response.writeHead(known ? 200 : 404);
    response.end(known ? file(name) : "none");
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", () => done(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  try {
    /** @type {number[]} */
    const seen = [];
    const session = await openSession(`http://127.0.0.1:${port}/model.onnx?v=1`, { ort, onProgress: (done) => seen.push(done) });
    assert.equal(seen.at(-1), file("model.onnx").length);
    assert.equal((await session.run(Float32Array.from(expected().x))).data.length, 4);
    await assert.rejects(openSession(`http://127.0.0.1:${port}/none.onnx`, { ort }), /returned 404: expected the description/);
  } finally {
    server.close();
  }
  await assert.rejects(openSession(`http://127.0.0.1:${port}/model.onnx`, { ort }), /cannot be fetched/);
});
