"""Pure functions of tensors: keyword-only parameters, no state, no schedule, no collective."""
