"""API keys, scopes and the routes that they open."""
