"""The figures that say whether a bandit's loop lives: counted, written for people and for Prometheus."""
