/** Networks whose depth is chosen with each call: files that `adaptive-depth export` wrote, in the browser or in Node. */

export { parseArtifact } from "./artifact.js";
export * from "./errors.js";
export { Governor, profiled, replay } from "./governor.js";
export { read } from "./predictions.js";
export { place, prepare } from "./preprocessing.js";
export { openSession, Session } from "./session.js";
export { front } from "./tradeoffs.js";
