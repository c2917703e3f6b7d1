/** Predictions for an image. */

/** @typedef {import("./artifact.js").Artifact} Artifact */
/** @typedef {import("./session.js").Output} Output */

/**
 * One output's prediction.
 *
 * @typedef {object} Prediction
 * @property {string} output its name; empty if the network has only one
 * @property {{ name: string, score: number }[]} classes the most probable first; labels with their probability; for maps,
 *   each class's share of pixels; empty if the output stands for numbers
 * @property {number[]} numbers the first few, if the output stands for numbers
 * @property {string} unit of the numbers
 */

/**
 * @param {Output | Record<string, Output>} output what a session returned for a batch of one
 * @param {Artifact} artifact
 * @param {number} [most] classes
 * @returns {Prediction[]}
 */
export function read(output, artifact, most = 5) {
  const parts = "dims" in output ? { "": /** @type {Output} */ (output) } : /** @type {Record<string, Output>} */ (output);
  return Object.entries(parts).map(([name, part]) => {
    const values = Array.from(part.data, Number);
    const shape = part.dims.slice(1);
    const meaning = artifact.meanings[name] ?? (name === "" && shape.length === 1 ? { kind: "classes" } : undefined);
    const prediction = { output: name, classes: [], numbers: values.slice(0, 8), unit: meaning?.unit ?? "" };
    if (!meaning || meaning.kind === "numbers" || values.length < 2) return prediction;
    const named = scored(values, shape, meaning.kind === "labels").map((score, number) => ({
      name: artifact.labels.length === shape[0] ? artifact.labels[number] : `class ${number}`,
      score,
    }));
    return { ...prediction, numbers: [], classes: named.sort((a, b) => b.score - a.score).slice(0, most) };
  });
}

/** A score for each class. @param {number[]} values @param {readonly number[]} shape @param {boolean} labels */
function scored(values, shape, labels) {
  const classes = shape[0];
  const places = values.length / classes;
  if (places > 1) {
    const counts = new Array(classes).fill(0);
    for (let place = 0; place < places; place++) {
      const here = Array.from({ length: classes }, (_, number) => values[number * places + place]);
      if (labels) here.forEach((value, number) => (counts[number] += Number(value > 0)));
      else counts[here.indexOf(Math.max(...here))] += 1;
    }
    return counts.map((count) => count / places);
  }
  if (labels) return values.map((value) => 1 / (1 + Math.exp(-value)));
  const largest = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}
