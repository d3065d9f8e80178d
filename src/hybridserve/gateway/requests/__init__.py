"""Request bodies: reading, the formats of the generation APIs, and the request policy."""
