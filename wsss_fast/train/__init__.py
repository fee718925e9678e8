"""Training: the optimiser and its schedule, the loop, and what a run writes."""
