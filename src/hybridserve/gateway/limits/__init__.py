"""Rate and concurrency limits, prompt length, and idempotent retries."""
