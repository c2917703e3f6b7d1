"""Quality and costs → trade-offs, the Pareto front, a choice and its reason. Without torch."""
