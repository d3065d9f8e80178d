"""What we know about models, licenses, accelerators and engines: data with sources, and typed loaders."""
