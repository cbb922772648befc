"""Simulated users who ask an endpoint for decisions and send the rewards that are theirs."""
