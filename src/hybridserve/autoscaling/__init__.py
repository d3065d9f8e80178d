"""The scaling policy: pure functions from replica metrics to a replica count."""
