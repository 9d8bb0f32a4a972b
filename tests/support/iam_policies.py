"""The policies of deploy/iam, and the actions of IAM that calls of AWS's operations need."""

import functools
import json
from typing import Any

from tests.support import ROOT

DIRECTORY = ROOT / "deploy" / "iam"
PREFIXES = {"sagemaker-runtime": "sagemaker", "resourcegroupstaggingapi": "tag"}
"""IAM's names of services that have another name in boto3."""
ACTIONS = {
    "s3:HeadObject": "s3:GetObject", "s3:ListObjectsV2": "s3:ListBucket", "s3:CreateMultipartUpload": "s3:PutObject",
    "s3:UploadPart": "s3:PutObject", "s3:CompleteMultipartUpload": "s3:PutObject",
    "sts:GetCallerIdentity": "",
}  # fmt: skip
"""Operations that need an action of another name, or none."""


def policy(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return document


@functools.cache
def allowed_actions(name: str) -> frozenset[str]:
    """Return the actions that a policy allows, such as `sagemaker:CreateModel`."""
    return frozenset(action for statement in policy(name)["Statement"] for action in statement["Action"])


def action_of(service: str, operation: str) -> str:
    """Return the action that a call of boto3's operation needs, empty if it needs none."""
    action = f"{PREFIXES.get(service, service)}:{operation}"
    return ACTIONS.get(action, action)
