/** The governor: picks the depth for the next input from its observations of the device. Step by step as in Python. */

import { BudgetError, MeasurementError, SkipError } from "./errors.js";
import { front, measured } from "./tradeoffs.js";

/** @typedef {import("./artifact.js").Row} Row */
/** @typedef {import("./artifact.js").TradeOffs} TradeOffs */

const EVIDENCE = 4; // a deeper one must have fitted for this many inputs
const SPACING = 0.5; // seconds from a climb to the next one that follows a drop
const ROOM = 1.05; // a deeper one must have fitted, and a shallower one must fit, with this margin
const SAVED = 3; // the most misses that can be saved up
const PROBATION = 3; // a climb that misses within this many inputs has failed: the wait for the next one doubles
const SUCCESS = 20; // one that survives this many has succeeded: the wait is reset
const LONGEST_WAIT = 30; // seconds
const LONGEST_STEP = 1; // seconds: a clock's jump ahead counts as at most this

/** @param {unknown} value @returns {value is number} */
const isPositive = (value) => typeof value === "number" && value > 0 && value < Infinity;

/**
 * The rule, without a clock: `decide` before an input, `observe` after it. docs/governing.md explains how it decides.
 */
class Policy {
  /**
   * @param {readonly number[]} latencies of the depths, in milliseconds, fastest and worst first
   * @param {number} targetMs infinite without a deadline
   * @param {number} met the share of inputs that should meet it
   * @param {number} holdS how long a deeper one must have fitted
   */
  constructor(latencies, targetMs, met, holdS) {
    this.latencies = latencies;
    this.targetMs = targetMs;
    /** @type {number | null} */
    this.at = null;
    this.earned = 1 - met;
    this.hold = holdS;
    this.left = 1;
    /** @type {number[]} */
    this.recent = [];
    this.wait = latencies.map(() => holdS);
    this.fitting = latencies.map(() => 0); // consecutive inputs for which each depth would have met the deadline
    this.since = latencies.map(() => 0); // and since when
    this.turnedAt = -Infinity; // when it last climbed after a drop
    this.climbing = false; // no drop since?
    /** @type {number | null} */
    this.onProbation = null; // inputs since the last climb, until it has succeeded or failed
  }

  /** The latency expected for the next input, as a multiple of the profiled one. */
  get slowdown() {
    const seen = this.recent.length ? [...this.recent].sort((a, b) => a - b) : [1];
    const sure = this.left < 1 || (this.onProbation !== null && this.onProbation < PROBATION);
    return sure || seen.length === 1 ? seen[seen.length - 1] : seen[seen.length - 2];
  }

  /**
   * @param {number} atS seconds; never less than before
   * @param {number} room what is left of the target, in milliseconds of the table's input
   * @param {readonly number[]} allowed depths, shallowest first
   * @returns {"start" | "stay" | "deeper" | "shallower"} why; the depth is `at` afterwards
   */
  decide(atS, room, allowed) {
    if (this.at === null) {
      this.at = this.deepest(allowed, this.recent.length ? Math.max(...this.recent) : 1, room);
      return "start";
    }
    const at = this.at;
    if (!allowed.includes(at) || (at > allowed[0] && this.latencies[at] * this.slowdown > room)) {
      return this.drop(at, allowed, room);
    }
    for (const depth of [...allowed].reverse()) {
      if (depth > at && this.mayClimb(depth, atS, room)) {
        this.turnedAt = this.climbing ? this.turnedAt : atS;
        [this.at, this.climbing, this.onProbation] = [depth, true, 0];
        return "deeper";
      }
    }
    return "stay";
  }

  /** @param {number} at @param {readonly number[]} allowed @param {number} room @returns {"shallower"} */
  drop(at, allowed, room) {
    const below = allowed.filter((depth) => depth < at);
    const lower = below.length ? below : allowed.slice(0, 1);
    this.at = this.deepest(lower, (this.recent.length ? Math.max(...this.recent) : 1) * ROOM, room);
    this.climbing = false;
    this.onProbation = null;
    return "shallower";
  }

  /** @param {readonly number[]} allowed @param {number} slowdown @param {number} room */
  deepest(allowed, slowdown, room) {
    const fitting = allowed.filter((depth) => this.latencies[depth] * slowdown <= room);
    return fitting.length ? fitting[fitting.length - 1] : allowed[0];
  }

  /** @param {number} depth @param {number} atS @param {number} room */
  mayClimb(depth, atS, room) {
    if (!this.climbing && atS - this.turnedAt < SPACING) return false;
    if (this.targetMs === Infinity) return true;
    return (
      this.left >= 1 &&
      this.fitting[depth] >= EVIDENCE &&
      atS - this.since[depth] >= this.wait[depth] &&
      this.latencies[depth] * this.recent[this.recent.length - 1] * ROOM <= room
    );
  }

  /**
   * @param {number} atS
   * @param {number | null} depth what ran; null if it is not on the ladder
   * @param {number} slowdown its latency as a multiple of its profile
   * @param {boolean} missed whether it ended after the target, including waiting
   * @param {number} room what it had been given, as in `decide`
   */
  observe(atS, depth, slowdown, missed, room) {
    this.recent = [...this.recent, slowdown].slice(-3);
    this.latencies.forEach((latency, place) => {
      if (latency * slowdown > room / ROOM) {
        this.fitting[place] = 0;
        this.since[place] = atS;
      } else {
        this.fitting[place] += 1;
      }
    });
    if (!missed) this.left = Math.min(SAVED, this.left + this.earned);
    else if (depth !== 0) this.left = Math.max(-this.latencies.length, this.left + this.earned - 1);
    if (depth !== null && depth === this.at && this.onProbation !== null) this.tryClimb(depth, this.onProbation, missed);
  }

  /** One more input after a climb. @param {number} depth @param {number} inputs @param {boolean} missed */
  tryClimb(depth, inputs, missed) {
    if (!missed) {
      this.onProbation = inputs + 1;
      if (this.onProbation === SUCCESS) {
        for (let place = 0; place <= depth; place++) this.wait[place] = this.hold;
        this.onProbation = null;
      }
    } else if (inputs < PROBATION) {
      this.wait = this.wait.map((wait, place) => (place < depth ? wait : Math.min(LONGEST_WAIT, 2 * wait)));
    }
  }
}

/**
 * One input's times.
 *
 * @typedef {object} Seen
 * @property {number} at_s
 * @property {string} skip
 * @property {number} latency_ms
 * @property {number} waited_ms
 * @property {number} work
 */

/**
 * One decision and everything it was based on; the same as a line of `adaptive-depth run --log`.
 *
 * @typedef {object} Decision
 * @property {number} number counted from 1
 * @property {number} at_s seconds on the governor's own clock, which never goes back
 * @property {number} waited_ms
 * @property {Record<string, number>} limits
 * @property {string} skip
 * @property {"start" | "stay" | "deeper" | "shallower"} why
 * @property {number} slowdown the device's expected latency as a multiple of its profile
 * @property {Seen[]} seen since the previous decision
 * @property {number} work
 */

/**
 * @typedef {object} Settings
 * @property {number} [targetMs] a deadline for each input, from its arrival to its output
 * @property {number} [imagesPerS] instead: a stream of this many images per second
 * @property {() => Record<string, number>} [limit] called once a second: what one pass may cost at present
 * @property {number} [met] the share of inputs that should meet the target, 0.95 by default
 * @property {number} [holdS] how long a deeper one must have fitted before it is used
 * @property {(decision: Decision) => void} [onDecision]
 * @property {() => number} [clock] seconds
 */

export class Governor {
  /**
   * Picks the depth for the next input: the best quality in the table that meets the deadline.
   *
   * @param {TradeOffs} table quality and latency of each depth, measured as it will run (`profiled`)
   * @param {Settings} settings
   * @throws {BudgetError} an invalid target
   * @throws {MeasurementError} a table without latencies
   * @example
   * const governor = new Governor(table, { targetMs: 30 });
   * const skip = governor.choose();
   * governor.observe(skip, 21.5);
   */
  constructor(table, { targetMs, imagesPerS, limit, met = 0.95, holdS = 0.1, onDecision, clock = seconds }) {
    if (!Array.isArray(table?.rows)) {
      throw new MeasurementError("a governor received no table: expected artifact.trade_offs, or what profiled() returns");
    }
    if (targetMs === undefined && imagesPerS === undefined && limit === undefined) {
      throw new BudgetError("a governor without a target: pass targetMs, imagesPerS or limit");
    }
    if (targetMs !== undefined && imagesPerS !== undefined) {
      throw new BudgetError(`targetMs ${targetMs} and imagesPerS ${imagesPerS}: expected one of the two`);
    }
    for (const [name, value] of Object.entries({ targetMs, imagesPerS, holdS })) {
      if (value !== undefined && !isPositive(value)) {
        throw new BudgetError(`${name} ${value}: expected a finite number above 0`);
      }
    }
    if (!(isPositive(met) && met < 1)) throw new BudgetError(`met ${met}: expected a share between 0 and 1, such as 0.95`);
    const timed = targetMs !== undefined || imagesPerS !== undefined;
    if (timed && !measured(table).includes("latency_ms")) {
      throw new MeasurementError("the table has no latencies: measure them here, profiled(session, table)");
    }
    this.targetMs = targetMs ?? (imagesPerS === undefined ? Infinity : (1000 * (table.batch_size ?? 1)) / imagesPerS);
    this.table = table;
    this._ladder = front(table);
    this._rows = new Map(table.rows.map((row) => [row.skip, row]));
    this._policy = new Policy(this._ladder.map((row) => row.latency_ms ?? 0), this.targetMs, met, holdS);
    this._limit = limit;
    this._onDecision = onDecision;
    this._clock = clock;
    this._tick = clock();
    this._atS = 0;
    this._number = 0;
    /** @type {Seen[]} */
    this._seen = [];
    /** @type {Record<string, number>} */
    this._limits = {};
    this._allowed = this._ladder.map((_, place) => place);
    this._askedS = -Infinity;
    /** Observations with impossible latencies. */
    this.ignored = 0;
  }

  /** The depths that it chooses from, shallowest first. */
  get skips() {
    return this._ladder.map((row) => row.skip);
  }

  /** The latency expected for the next input, as a multiple of the profiled one. */
  get slowdown() {
    return this._policy.slowdown;
  }

  /**
   * The skip for the next input.
   *
   * @param {number} [waitedMs] how long it has already waited
   * @param {number} [work] its expected time as a multiple of that of the table's input
   * @returns {string}
   */
  choose(waitedMs = 0, work = 1) {
    checkWork(work);
    const atS = this._time();
    if (this._limit && atS - this._askedS >= 1) {
      const limits = this._limit();
      this._allowed = this._within(limits);
      this._limits = limits;
      this._askedS = atS;
    }
    const decision = this._decide(atS, usable(waitedMs), work);
    this._onDecision?.(decision);
    return decision.skip;
  }

  /**
   * Reports how long an input took.
   *
   * @param {string} skip the depth that ran
   * @param {number} latencyMs of the pass; impossible ones are only counted in `ignored`
   * @param {number} [waitedMs]
   * @param {number} [work] as in `choose`
   */
  observe(skip, latencyMs, waitedMs = 0, work = 1) {
    checkWork(work);
    if (!this._rows.has(skip)) {
      throw new SkipError(`skip '${skip}' is not in the governor's table: expected one of ${[...this._rows.keys()].join(", ")}`);
    }
    const atS = this._time();
    if (isPositive(latencyMs)) {
      this._take({ at_s: atS, skip, latency_ms: latencyMs, waited_ms: usable(waitedMs), work });
    } else {
      this.ignored += 1;
    }
  }

  _time() {
    const tick = this._clock();
    const passed = tick - this._tick;
    this._tick = tick;
    this._atS += passed > 0 ? Math.min(passed, LONGEST_STEP) : 0;
    return this._atS;
  }

  /** @param {Seen} seen */
  _take(seen) {
    this._seen.push(seen);
    const profiled = this._rows.get(seen.skip)?.latency_ms;
    const slowdown = profiled ? seen.latency_ms / (profiled * seen.work) : 1;
    const missed = seen.waited_ms + seen.latency_ms > this.targetMs;
    const room = (this.targetMs - seen.waited_ms) / seen.work;
    const place = this._ladder.findIndex((row) => row.skip === seen.skip);
    this._policy.observe(seen.at_s, place < 0 ? null : place, slowdown, missed, room);
  }

  /** @param {number} atS @param {number} waitedMs @param {number} work @returns {Decision} */
  _decide(atS, waitedMs, work) {
    const why = this._policy.decide(atS, (this.targetMs - waitedMs) / work, this._allowed);
    const { skip } = this._ladder[/** @type {number} */ (this._policy.at)];
    const seen = this._seen;
    this._seen = [];
    this._number += 1;
    const limits = this._limits;
    return { number: this._number, at_s: atS, waited_ms: waitedMs, limits, skip, why, slowdown: this.slowdown, seen, work };
  }

  /** Replays a logged decision. @param {Decision} decision @returns {Decision} */
  _again(decision) {
    decision.seen.forEach((seen) => this._take(seen));
    if (JSON.stringify(decision.limits) !== JSON.stringify(this._limits)) {
      this._allowed = this._within(decision.limits);
      this._limits = decision.limits;
    }
    return this._decide(decision.at_s, decision.waited_ms, decision.work);
  }

  /** The places on the ladder that the limits allow; if there are none, the nearest one. @param {any} limits */
  _within(limits) {
    const known = measured(this.table);
    if (typeof limits !== "object" || limits === null) {
      throw new BudgetError(`the governor's limit returned ${limits}: expected limits such as {energy_mj: 40}, or {}`);
    }
    for (const [name, value] of Object.entries(limits)) {
      if (!known.includes(name) || !isPositive(value)) {
        throw new BudgetError(
          `the governor's limit returned ${name} ${value}: expected finite numbers above 0 for some of ${known.join(", ")}`,
        );
      }
    }
    const over = this._ladder.map((row) => {
      const ratios = Object.entries(limits).map(([name, value]) => row[name] / value);
      return ratios.length ? Math.max(...ratios) : 0;
    });
    const allowed = this._ladder.map((_, place) => place).filter((place) => over[place] <= 1);
    return allowed.length ? allowed : [over.indexOf(Math.min(...over))];
  }
}

/**
 * The decisions that a governor makes from the observations in a log (`adaptive-depth run --log`): the same ones, given
 * the same settings.
 *
 * @param {readonly Decision[]} log every decision from the first one on
 * @param {TradeOffs} table
 * @param {Settings} settings
 * @returns {Decision[]}
 * @throws {MeasurementError} a log that is empty, or has gaps
 */
export function replay(log, table, settings) {
  if (!log.length || log.some((decision, place) => decision.number !== place + 1)) {
    throw new MeasurementError(`a log of ${log.length} decisions does not start with the first one or has gaps`);
  }
  const governor = new Governor(table, { limit: () => ({}), ...settings, onDecision: undefined });
  return log.map((decision) => governor._again(decision));
}

/**
 * A table with the latencies of this device: those in a file are from the device that measured them.
 *
 * @param {import("./session.js").Session} session
 * @param {TradeOffs} table whose quality and other costs are kept
 * @param {{ rounds?: number, x?: Float32Array, clock?: () => number, onProgress?: (share: number) => void }} [how]
 * @returns {Promise<TradeOffs>}
 */
export async function profiled(session, table, { rounds = 5, x, clock = seconds, onProgress } = {}) {
  const sides = session.artifact.input_shape.map((side) => side ?? 1);
  const input = x ?? new Float32Array(sides.reduce((product, side) => product * side, 1));
  const shape = x ? undefined : sides;
  const rows = table.rows.filter((row) => session.skips.includes(row.skip));
  /** @type {Map<string, number[]>} */
  const times = new Map(rows.map((row) => [row.skip, []]));
  for (let round = -1; round < rounds; round++) { // the first one is a warm-up
    for (const { skip } of rows) {
      const start = clock();
      await session.run(input, { skip, shape });
      if (round >= 0) times.get(skip)?.push(1000 * (clock() - start));
    }
    onProgress?.((round + 2) / (rounds + 1));
  }
  const middle = (/** @type {number[]} */ values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  return {
    ...table,
    batch_size: 1,
    rows: rows.map((row) => ({ ...row, latency_ms: Math.max(middle(times.get(row.skip) ?? []), 1e-3) })),
  };
}

const seconds = () => performance.now() / 1000;
const usable = (/** @type {number} */ waitedMs) => (waitedMs >= 0 && waitedMs < Infinity ? waitedMs : 0);

/** @param {unknown} work */
function checkWork(work) {
  if (!isPositive(work)) throw new BudgetError(`work ${work}: expected a finite number above 0`);
}
