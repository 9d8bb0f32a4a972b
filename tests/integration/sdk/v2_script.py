"""Call SageMaker's SDK 2 as an article does, from the estimator to the predictor, and print one JSON object.

python v2_script.py SOURCE_DIR BUCKET ROLE MODEL_TAR
"""

import json
import sys

import boto3
from sagemaker.deserializers import JSONDeserializer
from sagemaker.pytorch import PyTorch, PyTorchModel
from sagemaker.serializers import JSONSerializer
from sagemaker.session import Session

source, bucket, role, archive = sys.argv[1:]
session = Session(default_bucket=bucket)
data = session.upload_data("train.csv", bucket=bucket, key_prefix="data")

estimator = PyTorch(
    entry_point="train_deploy.py",
    source_dir=source,
    role=role,
    framework_version="2.3",
    py_version="py311",
    instance_count=1,
    instance_type="ml.m5.large",
    hyperparameters={"epochs": 1, "batch-size": 2, "base-model": "gpt2"},
    sagemaker_session=session,
)
estimator.fit({"train": data}, wait=False)

# moto's job trains nothing: this is what one would have left
boto3.client("s3").upload_file(archive, bucket, estimator.model_data.removeprefix(f"s3://{bucket}/"))

model = PyTorchModel(
    model_data=estimator.model_data,
    role=role,
    entry_point="train_deploy.py",
    source_dir=source,
    framework_version="2.3",
    py_version="py311",
    sagemaker_session=session,
)
predictor = model.deploy(
    initial_instance_count=1,
    instance_type="ml.m5.large",
    endpoint_name="articles",
    serializer=JSONSerializer(),
    deserializer=JSONDeserializer(),
)
answer = predictor.predict({"text": "The striker scored twice in the cup final."})

aws = boto3.client("sagemaker")
job = aws.describe_training_job(TrainingJobName=estimator.latest_training_job.name)
found = {"hyperparameters": job["HyperParameters"], "answer": answer, "channels": job["InputDataConfig"]}
sys.stdout.write("\n" + json.dumps(found) + "\n")  # after what the SDK wrote itself
predictor.delete_endpoint()
