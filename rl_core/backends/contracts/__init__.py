"""The four contracts of a backend; `tests/contract/` runs one suite over every implementation of each."""
