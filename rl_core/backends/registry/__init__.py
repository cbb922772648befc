"""What every policy registry shares: its one document, and how that changes."""
