"""One deployment, computed once: settings, plan, engine arguments, scaling and compliance documents."""

from hybridserve.deployment.spec import DeploymentSpec, PlanSummary, spec_from_environ

__all__ = ["DeploymentSpec", "PlanSummary", "spec_from_environ"]
