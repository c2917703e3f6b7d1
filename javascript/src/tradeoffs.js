/** Quality against cost of the depths. */

import { TOP_1 } from "./artifact.js";
import { MeasurementError } from "./errors.js";

/** @typedef {import("./artifact.js").Row} Row */
/** @typedef {import("./artifact.js").TradeOffs} TradeOffs */

/** The costs that a table may have, in order of precedence for comparisons. */
const COSTS = ["latency_ms", "token_ms", "first_token_ms", "macs", "energy_mj", "memory_mb", "parameters", "cache_kb"];

/** The known costs, latency first if it was measured. @param {TradeOffs} table */
export const measured = (table) => COSTS.filter((cost) => (table.rows[0][cost] ?? null) !== null);

/**
 * The Pareto front of quality against one cost, cheapest (and thus worst) first. Of rows that are equal in both, either
 * all or none are on it.
 *
 * @param {TradeOffs} table
 * @param {string} [cost] by default the first measured one, latency first
 * @returns {Row[]}
 * @throws {MeasurementError} a cost that was not measured
 */
export function front(table, cost) {
  const known = measured(table);
  const name = cost ?? known[0];
  if (!known.includes(name)) throw new MeasurementError(`${name} was not measured: expected one of ${known.join(", ")}`);
  const sign = (table.quality ?? TOP_1).higher_is_better ? 1 : -1;
  /** @param {Row} a @param {Row} b */
  const dominates = (a, b) => {
    const gain = sign * (a.accuracy - b.accuracy);
    return gain >= 0 && a[name] <= b[name] && (gain > 0 || a[name] < b[name]);
  };
  return table.rows
    .filter((row) => !table.rows.some((other) => dominates(other, row)))
    .sort((a, b) => a[name] - b[name]);
}
