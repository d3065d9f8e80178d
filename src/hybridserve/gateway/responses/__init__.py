"""Responses of the engine: error cleaning, output moderation, and a valid end of every stream."""
