"""Reasoning switch, control words and thinking budgets."""
