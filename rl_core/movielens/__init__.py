"""MovieLens 100K as a bandit's environment: fetched, or made up where there is no network."""
