"""MAML on a hierarchy: the same training for a point φ, whose task-level θ takes the gradient steps."""
