import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { crc32 } from "../src/crc32.js";
import { place, prepare } from "../src/index.js";

const cases = JSON.parse(readFileSync(new URL("../../tests/vectors/preprocessing.json", import.meta.url), "utf8"));

/** As tests/vectors/write.py makes them. @param {number} width @param {number} height */
function image(width, height) {
  const data = new Uint8ClampedArray(4 * width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const board = 255 * ((Math.floor(x / 5) + Math.floor(y / 3)) % 2);
      data.set([(x * 7) % 256, (x * y + 3 * y) % 256, board, 255], 4 * (y * width + x));
    }
  }
  return { data, width, height };
}

for (const { preprocessing, image: [width, height], crc32: expected, first } of cases) {
  const { interpolation, resize = "crop", channels } = preprocessing;
  test(`bit by bit as in Python: ${interpolation}, ${resize}, ${channels} channels, ${width} x ${height}`, () => {
    const x = prepare(image(width, height), preprocessing);
    assert.deepEqual(Array.from(x.slice(0, 4)), first);
    assert.equal(crc32(new Uint8Array(x.buffer)), expected);
  });
}

test("halves are rounded to even numbers, as in Python", () => {
  const common = { channels: /** @type {3} */ (3), mean: [0, 0, 0], std: [1, 1, 1], interpolation: /** @type {"box"} */ ("box") };
  assert.deepEqual(place({ ...common, image_size: 24, crop_pct: 0.9 }, 24, 24).corner, [-1, -1]);
  assert.deepEqual(place({ ...common, image_size: 5, crop_pct: 1, resize: "letterbox" }, 10, 5).resized, [5, 2]);
});

test("an image without pixels", () => {
  assert.throws(() => prepare({ data: new Uint8ClampedArray(3), width: 1, height: 1 }, cases[0].preprocessing), /3 bytes: expected RGBA/);
});
