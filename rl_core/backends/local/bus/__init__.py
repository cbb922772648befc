"""The local message bus: one append-only journal of checksummed groups. Why so: docs/decisions/0012."""
