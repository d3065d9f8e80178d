"""Pure rules to findings: licence and attribution, guard settings, engine lint; evidence that a guard works."""
