"""KMS and encrypted snapshots through an unmodified boto3, with the credentials of an account administrator."""

import json
import os
import time
import urllib.request

import boto3
import botocore.exceptions
import pytest

ENDPOINT = os.environ["AWSSIM_ENDPOINT"]
REGION = os.environ.get("AWS_REGION", "us-east-1")
OTHER = "444444444444"


def client(service, key=None):
    keys = {"aws_access_key_id": key["access_key_id"], "aws_secret_access_key": key["secret_access_key"]} if key else {}
    return boto3.client(service, endpoint_url=ENDPOINT, region_name=REGION, **keys)


def admin(path, body):
    request = urllib.request.Request(
        f"{ENDPOINT}/_awssim/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


@pytest.fixture(scope="module")
def kms():
    return client("kms")


@pytest.fixture(scope="module")
def ec2():
    return client("ec2")


@pytest.fixture(scope="module")
def key(kms):
    return kms.create_key(Description="tests", Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]["Arn"]


def snapshot_state(ec2, snapshot):
    deadline = time.monotonic() + 10
    while True:
        shown = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
        if shown["State"] != "pending":
            return shown
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_keys_aliases_and_states(kms, key):
    shown = kms.describe_key(KeyId=key)["KeyMetadata"]
    assert (shown["KeyState"], shown["KeyManager"], shown["Enabled"]) == ("Enabled", "CUSTOMER", True)
    kms.create_alias(AliasName="alias/boto3", TargetKeyId=key)
    with pytest.raises(kms.exceptions.AlreadyExistsException):
        kms.create_alias(AliasName="alias/boto3", TargetKeyId=key)
    assert kms.describe_key(KeyId="alias/boto3")["KeyMetadata"]["Arn"] == key
    assert key in [k["KeyArn"] for page in kms.get_paginator("list_keys").paginate() for k in page["Keys"]]
    names = [a["AliasName"] for page in kms.get_paginator("list_aliases").paginate() for a in page["Aliases"]]
    assert "alias/boto3" in names
    kms.disable_key(KeyId=key)
    with pytest.raises(kms.exceptions.DisabledException):
        kms.generate_data_key(KeyId=key, KeySpec="AES_256")
    kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert "DeletionDate" in kms.describe_key(KeyId=key)["KeyMetadata"]
    with pytest.raises(kms.exceptions.KMSInvalidStateException):
        kms.enable_key(KeyId=key)
    kms.cancel_key_deletion(KeyId=key)
    kms.enable_key(KeyId=key)
    with pytest.raises(kms.exceptions.NotFoundException):
        kms.describe_key(KeyId="alias/none")


def test_data_keys_and_dry_runs(kms, key):
    made = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext={"a": "b"})
    opened = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"a": "b"})
    assert opened["Plaintext"] == made["Plaintext"] and len(made["Plaintext"]) == 32
    with pytest.raises(kms.exceptions.DryRunOperationException):
        kms.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256", DryRun=True)
    policy = {"Statement": [{"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}]}
    account = key.split(":")[4]
    nobody = client("kms", admin("users", {"account": account, "name": "nobody", "policies": [policy]}))
    with pytest.raises(botocore.exceptions.ClientError) as error:
        nobody.decrypt(KeyId=key, CiphertextBlob=made["CiphertextBlob"], DryRun=True)
    assert error.value.response["Error"]["Code"] == "AccessDeniedException"
    assert "kms:Decrypt" in str(error.value) and key in str(error.value)


def test_policies_and_grants(kms, key):
    policy = json.loads(kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"])
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(policy))
    made = kms.create_grant(KeyId=key, GranteePrincipal=f"arn:aws:iam::{OTHER}:root", Operations=["Decrypt"])
    grants = kms.list_grants(KeyId=key)["Grants"]
    assert [g["GrantId"] for g in grants] == [made["GrantId"]]
    kms.retire_grant(GrantToken=made["GrantToken"])
    assert kms.list_grants(KeyId=key)["Grants"] == []


def test_an_encrypted_volume_its_snapshot_and_copies(ec2, key):
    volume = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1, Encrypted=True, KmsKeyId="alias/boto3")
    assert volume["KmsKeyId"] == key
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume["VolumeId"]], WaiterConfig={"Delay": 1})
    snapshot = ec2.create_snapshot(VolumeId=volume["VolumeId"])["SnapshotId"]
    shown = snapshot_state(ec2, snapshot)
    assert (shown["State"], shown["KmsKeyId"]) == ("completed", key)
    copy = ec2.copy_snapshot(
        SourceSnapshotId=snapshot, SourceRegion=REGION, Encrypted=True, KmsKeyId="alias/none"
    )["SnapshotId"]
    shown = snapshot_state(ec2, copy)
    assert (shown["State"], shown["StateMessage"]) == ("error", "Given key ID is not accessible")
    ec2.modify_snapshot_attribute(
        SnapshotId=snapshot, Attribute="createVolumePermission", OperationType="add", UserIds=[OTHER]
    )
    managed = ec2.copy_snapshot(
        SourceSnapshotId=snapshot, SourceRegion=REGION, Encrypted=True, KmsKeyId="alias/aws/ebs"
    )["SnapshotId"]
    assert snapshot_state(ec2, managed)["State"] == "completed"
    with pytest.raises(botocore.exceptions.ClientError) as error:
        ec2.modify_snapshot_attribute(
            SnapshotId=managed, Attribute="createVolumePermission", OperationType="add", UserIds=[OTHER]
        )
    assert error.value.response["Error"]["Code"] == "InvalidParameter"


def test_defaults(ec2, key):
    assert ec2.get_ebs_default_kms_key_id()["KmsKeyId"] == "alias/aws/ebs"
    assert ec2.modify_ebs_default_kms_key_id(KmsKeyId="alias/boto3")["KmsKeyId"] == key
    assert ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1, Encrypted=True)["KmsKeyId"] == key
    ec2.reset_ebs_default_kms_key_id()
