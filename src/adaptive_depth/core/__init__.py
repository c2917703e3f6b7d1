"""A sub-network is an ordinary, smaller module: plan → network, and all that runs its depths."""
