"""The thin edge: the Ray Serve application and everything that touches a process, a port or an engine."""
