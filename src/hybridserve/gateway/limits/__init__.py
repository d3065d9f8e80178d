"""Rate limits, prompt length and idempotency."""
