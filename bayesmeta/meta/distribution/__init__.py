"""Distributions over the weights of one task: what the Bayesian algorithms adapt and draw from."""
