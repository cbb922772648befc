"""The figures that show whether a bandit's loop works, written for people and for Prometheus."""
