"""Training runs in the process of the test."""

from classifier.artifact import Artifact
from training.config import TrainConfig
from training.fit import run as training_run


def run(config: TrainConfig) -> Artifact:
    artifact = training_run.run(config)
    assert artifact is not None  # torchrun's other processes get None
    return artifact
