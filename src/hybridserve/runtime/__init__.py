"""`hybridserve serve`: the Ray Serve application, its backends and the start-up checks."""
