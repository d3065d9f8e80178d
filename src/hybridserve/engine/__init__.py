"""What runs beside vLLM in one replica."""
