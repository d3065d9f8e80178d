"""All use of private names of Ray and vLLM: one module for each upstream, each hook with its reason and its test."""
