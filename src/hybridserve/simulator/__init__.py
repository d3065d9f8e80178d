"""A discrete-event simulation of a fleet of replicas that compares autoscaling policies."""
