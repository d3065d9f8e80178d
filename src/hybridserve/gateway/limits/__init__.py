"""Rate and concurrency limits, and the prompt length."""
