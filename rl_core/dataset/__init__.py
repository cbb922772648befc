"""From rows of the log to what trains: the rules a row must keep, and TFRecord shards."""
