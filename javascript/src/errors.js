/** Errors of this package; all are instances of `AdaptiveDepthError`, as in the Python library. */

export class AdaptiveDepthError extends Error {
  /** @param {string} message what was received, what was expected, and how to fix it */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/** A file that is missing, damaged or from another program. */
export class ArtifactError extends AdaptiveDepthError {}

/** An input that does not fit the network. */
export class DataError extends AdaptiveDepthError {}

/** An invalid limit. */
export class BudgetError extends AdaptiveDepthError {}

/** A table without the required values. */
export class MeasurementError extends AdaptiveDepthError {}

/** A depth that does not exist. */
export class SkipError extends AdaptiveDepthError {}
