"""Bundled tasks and the metrics that score replies."""

if __name__ != "promptopt.tasks":
    raise ImportError("import promptopt.tasks; under the bare name modules would load twice")
