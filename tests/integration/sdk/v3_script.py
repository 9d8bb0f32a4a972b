"""Train and serve this project's image by SageMaker's SDK 3, ask a question, and print one JSON object.

python v3_script.py SOURCE_DIR BUCKET ROLE MODEL_TAR
"""

import json
import os
import sys
from typing import Any

os.environ["SAGEMAKER_VALIDATE_ROLE"] = "false"  # it would ask IAM what moto cannot answer

import boto3
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.training.configs import CheckpointConfig, Compute, InputData, OutputDataConfig, StoppingCondition
from sagemaker.serve.model_builder import ModelBuilder
from sagemaker.train import ModelTrainer

_, bucket, role, archive = sys.argv[1:]
image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/gpt2-classifier-train:1"
boto_session = boto3.Session()


def leave_out_empty(parsed: dict[str, Any], **_: object) -> None:
    """Remove the {} by which moto describes what was not asked for, and which the SDK's models refuse."""
    for key in [key for key, value in parsed.items() if value == {}]:
        del parsed[key]


for operation in ("DescribeModel", "DescribeEndpointConfig", "DescribeEndpoint"):
    boto_session.events.register(f"after-call.sagemaker.{operation}", leave_out_empty)

session = Session(boto_session=boto_session, default_bucket=bucket)
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
boto_session.client("s3").upload_file(archive, bucket, "model.tar.gz")
builder = ModelBuilder(
    image_uri=image,
    s3_model_data_url=f"s3://{bucket}/model.tar.gz",
    role_arn=role,
    sagemaker_session=session,
    instance_type="ml.m5.xlarge",
    env_vars={"SERVICE_MAX_TEXTS": "64"},
)
builder.build(model_name="articles")
endpoint = builder.deploy(endpoint_name="articles", container_startup_health_check_timeout=600)
question = json.dumps({"text": "The striker scored twice in the cup final."})
answer = endpoint.invoke(body=question, content_type="application/json", accept="application/json")

aws = boto3.client("sagemaker")
[summary] = aws.list_training_jobs()["TrainingJobSummaries"]
job = aws.describe_training_job(TrainingJobName=summary["TrainingJobName"])
found = {name: job.get(name) for name in ("AlgorithmSpecification", "HyperParameters", "InputDataConfig")}
found["answer"] = json.loads(answer.body.read())
found["model"] = aws.describe_model(ModelName="articles")["PrimaryContainer"]
found["variants"] = aws.describe_endpoint_config(EndpointConfigName="articles")["ProductionVariants"]
sys.stdout.write("\n" + json.dumps(found) + "\n")  # after what the SDK wrote itself
