import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { BudgetError, front, Governor, MeasurementError, replay, SkipError } from "../src/index.js";

const cases = JSON.parse(readFileSync(new URL("../../tests/vectors/governor.json", import.meta.url), "utf8"));
const table = { rows: [row("F", 80, 20), row("T", 60, 10)] };

/** @param {string} skip @param {number} accuracy @param {number} latency_ms */
function row(skip, accuracy, latency_ms) {
  return { skip, accuracy, macs: 9, parameters: 9, latency_ms };
}

for (const { name, table, settings, log } of cases) {
  test(`the decisions of the Python library: ${name}`, () => {
    const { target_ms: targetMs, images_per_s: imagesPerS, met, hold_s: holdS } = settings;
    assert.deepEqual(replay(log, table, { targetMs, imagesPerS, met, holdS }), log);
  });
}

test("a log with other settings has other decisions", () => {
  const [{ table, log }] = cases;
  assert.notDeepEqual(replay(log, table, { targetMs: 40 }), log);
});

test("choosing and observing by its own clock", () => {
  let now = 5;
  /** @type {any[]} */
  const decisions = [];
  const governor = new Governor(table, { targetMs: 30, clock: () => now, onDecision: (each) => decisions.push(each) });
  assert.equal(governor.choose(), "F");
  now += 0.055;
  governor.observe("F", 55);
  assert.equal(governor.choose(), "T");
  assert.equal(governor.slowdown, 2.75);
  now -= 100; // a clock that is set back stands still
  governor.observe("T", NaN);
  assert.equal(governor.ignored, 1);
  governor.choose();
  assert.deepEqual(decisions.map(({ at_s, why }) => [Math.round(1000 * at_s), why]), [
    [0, "start"],
    [55, "shallower"],
    [55, "stay"],
  ]);
  assert.deepEqual(replay(decisions, table, { targetMs: 30 }), decisions);
});

test("a limit is asked once a second", () => {
  let [now, asked] = [0, 0];
  const limited = { rows: table.rows.map((each) => ({ ...each, energy_mj: each.latency_ms })) };
  const limit = () => (asked++ ? { energy_mj: 12 } : {});
  const governor = new Governor(limited, { limit, clock: () => now });
  assert.equal(governor.choose(), "F");
  assert.equal(governor.choose(), "F");
  now = 1;
  assert.equal(governor.choose(), "T");
  assert.equal(asked, 2);
  const wrong = new Governor(limited, { limit: () => ({ energy: 3 }), clock: () => now });
  assert.throws(() => wrong.choose(), { name: "BudgetError", message: /energy 3: expected .* latency_ms, macs, energy_mj/ });
});

test("the front: lower may be better, and equals stay", () => {
  const rows = [row("FF", 2, 20), row("FT", 3, 20), row("TF", 5, 10), row("TT", 5, 10)];
  const skips = (/** @type {any} */ found) => found.map((/** @type {any} */ each) => each.skip);
  assert.deepEqual(skips(front({ rows })), ["TF", "TT"]);
  const quality = { name: "RMSE", unit: "", higher_is_better: false };
  assert.deepEqual(skips(front({ rows, quality })), ["TF", "TT", "FF"]);
  assert.throws(() => front({ rows }, "energy_mj"), { name: "MeasurementError", message: /energy_mj was not measured/ });
});

test("what is no target, table, depth or work", () => {
  const bare = { rows: table.rows.map((each) => ({ ...each, latency_ms: null })) };
  assert.throws(() => new Governor(table, {}), BudgetError);
  assert.throws(() => new Governor(table, { targetMs: 0 }), /targetMs 0: expected a finite number above 0/);
  assert.throws(() => new Governor(table, { targetMs: 3, imagesPerS: 3 }), /expected one of the two/);
  assert.throws(() => new Governor(table, { targetMs: 3, met: 1 }), /met 1: expected a share/);
  assert.throws(() => new Governor(bare, { targetMs: 3 }), MeasurementError);
  assert.throws(() => new Governor(/** @type {any} */ (null), { targetMs: 3 }), MeasurementError);
  const governor = new Governor(table, { targetMs: 30 });
  assert.throws(() => governor.observe("X", 3), SkipError);
  assert.throws(() => governor.choose(0, 0), /work 0: expected/);
  assert.throws(() => replay([], table, { targetMs: 30 }), /does not start with the first one/);
});
