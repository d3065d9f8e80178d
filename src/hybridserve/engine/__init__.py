"""Runs beside vLLM in each replica: statistics, plan check, metrics, watchdog, and patches of vLLM and Ray."""
