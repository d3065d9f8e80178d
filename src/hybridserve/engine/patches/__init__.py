"""Every private hook into Ray and vLLM, one module a hook, each with its reason and its contract test."""
