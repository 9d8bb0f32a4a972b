"""Training runs of tests, in the one process that there is."""

from classifier.artifact import Artifact
from training.config import TrainConfig
from training.fit import run as training_run


def run(config: TrainConfig) -> Artifact:
    artifact = training_run.run(config)
    assert artifact is not None  # None is for torchrun's other processes
    return artifact
