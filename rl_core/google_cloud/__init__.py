"""What all that speaks to Google Cloud shares: clients with one identity, names, errors in words."""
