"""Examine a vLLM release: does the planner match it, what changed, and can it be served?"""
