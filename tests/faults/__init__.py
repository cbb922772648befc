"""A package, so that what its fixtures of this scope start ends before the tests of the next folder begin."""
