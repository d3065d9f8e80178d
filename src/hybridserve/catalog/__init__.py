"""What we know about models, licences, accelerators and engines: data with sources, and typed loaders."""
