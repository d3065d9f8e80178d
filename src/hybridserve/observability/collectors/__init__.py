"""Prometheus collectors of a replica, its SLO counters and the autoscaler."""
