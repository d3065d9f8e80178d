"""A discrete-event model of a fleet of replicas that compares scaling policies."""
