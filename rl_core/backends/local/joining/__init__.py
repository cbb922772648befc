"""The joiner of the local event store: the rules, when open decisions are due, and the program over the store."""
