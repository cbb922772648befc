"""The event store on BigQuery: tables, queries, the joiner's transaction, deleting one person's rows."""
