"""The mathematics: LinUCB, exploration with exact propensities, off-policy estimators. No files but its own arrays."""
