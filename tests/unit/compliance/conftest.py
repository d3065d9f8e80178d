"""Fixtures of this room; the cases themselves are in a module that tests can import by name."""

from support.compliance_cases import baked, case, example, gemma_guard, llama_guard

__all__ = ["baked", "case", "example", "gemma_guard", "llama_guard"]
