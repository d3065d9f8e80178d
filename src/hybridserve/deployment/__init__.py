"""One deployment, computed once: settings, plan, engine arguments, scaling and compliance documents."""
