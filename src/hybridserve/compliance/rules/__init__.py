"""The compliance rules, one module a family: a rule reads a deployment view and returns a finding."""
