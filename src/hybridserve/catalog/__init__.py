"""Facts about models, licenses, accelerators and engine releases: data with sources, and typed loaders."""
