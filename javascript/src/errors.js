/** Errors of this package; all of them are instances of `AdaptiveDepthError`, as those of the Python library. */

export class AdaptiveDepthError extends Error {
  /** @param {string} message what was received, what was expected, and how to mend it */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/** A file that is missing, damaged or of another program. */
export class ArtifactError extends AdaptiveDepthError {}

/** An input that does not fit the network. */
export class DataError extends AdaptiveDepthError {}

/** A limit that is none. */
export class BudgetError extends AdaptiveDepthError {}

/** A table that lacks what is needed. */
export class MeasurementError extends AdaptiveDepthError {}

/** A depth that does not exist. */
export class SkipError extends AdaptiveDepthError {}
