"""From a file of somebody's decisions to interactions of the log: what columns mean, readers, checked rows, summary."""
