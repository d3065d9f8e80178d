"""Guard canaries: prompts with a known verdict, and how they are sent and judged."""
