"""What measures Outrider: quality suites, load sweeps, and the recipe of the pocket models."""
