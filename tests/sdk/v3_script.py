"""Run by SageMaker's SDK 3: a training job of our image, and a model of it. Prints one JSON object.

python v3_script.py SOURCE_DIR BUCKET ROLE MODEL_TAR
"""

import json
import os
import sys

os.environ["SAGEMAKER_VALIDATE_ROLE"] = "false"  # it would ask IAM what moto cannot answer

import boto3
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.training.configs import CheckpointConfig, Compute, InputData, OutputDataConfig, StoppingCondition
from sagemaker.train import ModelTrainer

_, bucket, role, _ = sys.argv[1:]
image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/gpt2-classifier-train:1"
session = Session(boto_session=boto3.Session(), default_bucket=bucket)
trainer = ModelTrainer(
    training_image=image,
    role=role,
    sagemaker_session=session,
    base_job_name="articles",
    compute=Compute(instance_type="ml.g5.xlarge", instance_count=1, enable_managed_spot_training=True),
    stopping_condition=StoppingCondition(max_runtime_in_seconds=3600, max_wait_time_in_seconds=7200),
    checkpoint_config=CheckpointConfig(s3_uri=f"s3://{bucket}/checkpoints/"),
    output_data_config=OutputDataConfig(s3_output_path=f"s3://{bucket}/jobs/"),
    hyperparameters={"epochs": 3, "lr": 3e-4, "near_duplicates": True, "name": "news"},
)
trainer.train(
    input_data_config=[InputData(channel_name="train", data_source=f"s3://{bucket}/data/")], wait=False, logs=False
)
aws = boto3.client("sagemaker")
[summary] = aws.list_training_jobs()["TrainingJobSummaries"]
job = aws.describe_training_job(TrainingJobName=summary["TrainingJobName"])
found = {name: job.get(name) for name in ("AlgorithmSpecification", "HyperParameters", "InputDataConfig")}
sys.stdout.write(json.dumps(found) + "\n")
