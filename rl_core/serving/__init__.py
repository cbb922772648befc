"""The prediction server: one process, one event loop, no TensorFlow."""
