"""What both policy registries share: their one document, and how it changes."""
