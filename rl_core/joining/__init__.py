"""From the message bus to interactions: event logger, joiner, and taking one person's data out again."""
