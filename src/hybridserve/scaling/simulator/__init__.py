"""A discrete-event model of a fleet of replicas, to judge scaling policies before they meet users."""
