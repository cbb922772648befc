"""The policy artefact: a folder that proves it is whole, where its blocks come from, and what it was judged."""
