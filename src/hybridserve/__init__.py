"""hybridserve: production deployment of hybrid Mamba-Transformer models on vLLM and Ray Serve."""

__version__ = "0.1.0"
