"""The finite jobs of the loop, in order; each module's `run` is called by the component of its name."""

STAGES = ("generator", "ingester", "trainer", "evaluator", "deployer", "exporter")
