"""Stateful stand-ins for the Google services we use; the real clients speak to them. `python -m stand_ins` runs all."""
