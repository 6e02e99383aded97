"""Pure decisions: (state, observation) -> decision, with no clock, no randomness and no input or output."""
