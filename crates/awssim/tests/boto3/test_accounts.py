"""EC2 and STS through boto3, unmodified, against a running awssim (AWSSIM_ENDPOINT)."""

import json
import os
import urllib.request

import boto3
import botocore.exceptions
import pytest

ENDPOINT = os.environ["AWSSIM_ENDPOINT"]
SERVICE, TENANT, REGION = "111111111111", "222222222222", "eu-central-1"


def admin(path, body):
    request = urllib.request.Request(
        f"{ENDPOINT}/_awssim/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def client(service, key, token=None, region=REGION):
    return boto3.client(
        service,
        endpoint_url=ENDPOINT,
        region_name=region,
        aws_access_key_id=key["access_key_id"],
        aws_secret_access_key=key["secret_access_key"],
        aws_session_token=token,
    )


def code_of(error):
    return error.value.response["Error"]["Code"]


@pytest.fixture(scope="module")
def service_key():
    return admin("accounts", {"account": SERVICE})


@pytest.fixture(scope="module")
def ec2():
    return client("ec2", admin("accounts", {"account": TENANT}))


@pytest.fixture(scope="module")
def instance(ec2):
    """An instance with two volumes, launched from an image over a snapshot of a blank volume."""
    blank = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1, VolumeType="gp3")["VolumeId"]
    ec2.get_waiter("volume_available").wait(VolumeIds=[blank], WaiterConfig={"Delay": 1})
    snapshot = ec2.create_snapshot(VolumeId=blank)["SnapshotId"]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[snapshot], WaiterConfig={"Delay": 1})
    image = ec2.register_image(
        Name="blank",
        Architecture="x86_64",
        RootDeviceName="/dev/xvda",
        BlockDeviceMappings=[
            {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot, "VolumeType": "gp3"}},
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 2, "VolumeType": "gp2", "DeleteOnTermination": False}},
        ],
    )["ImageId"]
    run = ec2.run_instances(
        ImageId=image,
        InstanceType="m6i.large",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web & co"}]},
            {"ResourceType": "volume", "Tags": [{"Key": "owner", "Value": "ünïcode"}]},
        ],
    )
    return run["Instances"][0]["InstanceId"]


def test_identity(service_key):
    assert client("sts", service_key).get_caller_identity()["Account"] == SERVICE


def test_a_wrong_secret_is_refused(service_key):
    wrong = dict(service_key, secret_access_key="x" * 40)
    with pytest.raises(botocore.exceptions.ClientError) as error:
        client("sts", wrong).get_caller_identity()
    assert code_of(error) == "SignatureDoesNotMatch"
    with pytest.raises(botocore.exceptions.ClientError) as error:
        client("ec2", wrong).describe_regions()
    assert code_of(error) == "AuthFailure"


def test_assume_role_wants_the_external_id(service_key):
    trust = {
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "sts:AssumeRole",
                "Principal": {"AWS": f"arn:aws:iam::{SERVICE}:root"},
                "Condition": {"StringEquals": {"sts:ExternalId": "s3cret"}},
            }
        ]
    }
    role = admin("roles", {"account": TENANT, "name": "backup", "trust": trust})["arn"]
    sts = client("sts", service_key)
    with pytest.raises(botocore.exceptions.ClientError) as error:
        sts.assume_role(RoleArn=role, RoleSessionName="test", ExternalId="guess")
    assert code_of(error) == "AccessDenied"
    got = sts.assume_role(RoleArn=role, RoleSessionName="test", ExternalId="s3cret")["Credentials"]
    key = {"access_key_id": got["AccessKeyId"], "secret_access_key": got["SecretAccessKey"]}
    identity = client("sts", key, got["SessionToken"]).get_caller_identity()
    assert identity["Arn"] == f"arn:aws:sts::{TENANT}:assumed-role/backup/test"
    chained = client("sts", key, got["SessionToken"])
    with pytest.raises(botocore.exceptions.ClientError):
        chained.assume_role(RoleArn=role, RoleSessionName="again", ExternalId="s3cret", DurationSeconds=7200)


def test_instance_shows_volumes_tags_and_interfaces(ec2, instance):
    shown = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert [m["DeviceName"] for m in shown["BlockDeviceMappings"]] == ["/dev/sdf", "/dev/xvda"]
    assert {"Key": "Name", "Value": "web & co"} in shown["Tags"]
    assert shown["NetworkInterfaces"][0]["Groups"]
    volumes = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance]}])["Volumes"]
    assert sorted(v["Size"] for v in volumes) == [1, 2]
    assert all({"Key": "owner", "Value": "ünïcode"} in v["Tags"] for v in volumes)


def test_create_snapshots_covers_all_volumes_and_copies_tags(ec2, instance):
    made = ec2.create_snapshots(
        InstanceSpecification={"InstanceId": instance},
        CopyTagsFromSource="volume",
        TagSpecifications=[{"ResourceType": "snapshot", "Tags": [{"Key": "run", "Value": "1"}]}],
    )["Snapshots"]
    assert len(made) == 2
    found = ec2.describe_snapshots(OwnerIds=["self"], Filters=[{"Name": "tag:run", "Values": ["1"]}])["Snapshots"]
    assert {s["SnapshotId"] for s in found} == {s["SnapshotId"] for s in made}
    assert all({"Key": "owner", "Value": "ünïcode"} in s["Tags"] for s in found)
    for snapshot in made:
        ec2.delete_snapshot(SnapshotId=snapshot["SnapshotId"])


def test_pages_hold_everything_once(ec2):
    ids = [ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1, VolumeType="gp3")["VolumeId"] for _ in range(7)]
    pages = ec2.get_paginator("describe_volumes").paginate(PaginationConfig={"PageSize": 5})
    seen = [v["VolumeId"] for page in pages for v in page["Volumes"]]
    assert len(seen) == len(set(seen)) and set(ids) <= set(seen)


def test_dry_run_and_error_codes(ec2, instance):
    cases = [
        (lambda: ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1, DryRun=True), "DryRunOperation"),
        (lambda: ec2.describe_instances(InstanceIds=["i-0123456789abcdef0"]), "InvalidInstanceID.NotFound"),
        (lambda: ec2.describe_instances(InstanceIds=["nonsense"]), "InvalidInstanceID.Malformed"),
        (lambda: ec2.delete_snapshot(SnapshotId="snap-0123456789abcdef0"), "InvalidSnapshot.NotFound"),
        (lambda: ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1, VolumeType="gp2", Iops=300), "InvalidParameterCombination"),
        (lambda: ec2.create_volume(AvailabilityZone="mars-1a", Size=1), "InvalidZone.NotFound"),
    ]
    for call, code in cases:
        with pytest.raises(botocore.exceptions.ClientError) as error:
            call()
        assert code_of(error) == code
    root = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    volume = root["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    with pytest.raises(botocore.exceptions.ClientError) as error:
        ec2.delete_volume(VolumeId=volume)
    assert code_of(error) == "VolumeInUse"


def test_a_policy_is_evaluated(ec2):
    policy = {"Statement": [{"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"}]}
    reader = client("ec2", admin("users", {"account": TENANT, "name": "reader", "policies": [policy]}))
    reader.describe_volumes()
    with pytest.raises(botocore.exceptions.ClientError) as error:
        reader.create_volume(AvailabilityZone=f"{REGION}a", Size=1)
    assert code_of(error) == "UnauthorizedOperation"
    assert "ec2:CreateVolume" in str(error.value)


def test_terminate_keeps_what_it_should(ec2, instance):
    ec2.stop_instances(InstanceIds=[instance])
    ec2.get_waiter("instance_stopped").wait(InstanceIds=[instance], WaiterConfig={"Delay": 1})
    before = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance]}])["Volumes"]
    ec2.terminate_instances(InstanceIds=[instance])
    ids = [v["VolumeId"] for v in before]
    left = ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": ids}])["Volumes"]
    assert [v["Size"] for v in left] == [2]
