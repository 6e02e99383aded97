"""Load and speed: what an endpoint does per second, beside what else serves the same checkpoints."""
