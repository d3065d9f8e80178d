"""Our metrics, dashboards and alert rules, as code."""
