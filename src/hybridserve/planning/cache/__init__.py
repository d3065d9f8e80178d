"""The KV cache of one engine: pages, groups, layout and block count."""
