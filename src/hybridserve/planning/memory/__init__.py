"""What takes device memory besides the cache."""
