"""The message bus on Pub/Sub: one topic, in which every server is a producer."""
