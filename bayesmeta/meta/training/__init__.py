"""Training: episodes, the inner loop, and the climb of the meta-objective, for networks."""
