"""Guard canaries: prompts with a known verdict, how they are sent, and how the responses are judged."""
