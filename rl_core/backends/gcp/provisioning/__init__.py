"""Makes what a bandit needs on Google Cloud, checks it, and takes away again exactly what it made.

A resource that we made carries the label `banditloop` (an account or Scheduler job: the description). What was there
before is used, never changed and never deleted. IAM bindings carry no label: those we added are kept in a ledger in
the bucket (ledger.py), written before the binding is.
"""
