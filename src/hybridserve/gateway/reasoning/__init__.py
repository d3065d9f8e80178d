"""Reasoning controls and thinking budgets."""
