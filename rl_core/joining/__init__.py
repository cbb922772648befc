"""From the message bus to interactions: event logger, joiner, and deleting one person's data."""
