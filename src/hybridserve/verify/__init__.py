"""Numeric check of a running engine: token log-probabilities against a recorded reference and against themselves."""
