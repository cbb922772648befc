"""From nothing, or from a file of somebody's decisions, to a bandit's YAML."""
