"""Deployments that pass every rule, as fixtures."""

from support.compliance_cases import baked, case, example, gemma_guard, llama_guard

__all__ = ["baked", "case", "example", "gemma_guard", "llama_guard"]
