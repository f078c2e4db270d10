"""The search strategies, one file each, on the Study interface alone."""

if __name__ != "promptopt.optimizers":
    raise ImportError("import promptopt.optimizers; under the bare name modules would load twice")
