"""The AWS command line, unmodified, in an account of its own."""

import base64
import hashlib
import json
import os
import subprocess
import sys

import pytest
from conftest import launch, new_image

ACCOUNT, REGION = "121212121212", "eu-central-1"
BLOCK = 524288


class CommandLine:
    """`aws` as a user runs it: the endpoint and the key stand in the environment, and nothing else does."""

    def __init__(self, endpoint, key, home):
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": key["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": key["secret_access_key"],
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_DEFAULT_OUTPUT": "json",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def run(self, *arguments):
        command = [sys.executable, "-m", "awscli", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)

    def text(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 0, f"aws {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def json(self, *arguments):
        return json.loads(self.text(*arguments))


@pytest.fixture(scope="module")
def aws(sim, key, tmp_path_factory):
    return CommandLine(sim.endpoint, key, tmp_path_factory.mktemp("home"))


def test_who_is_asking(aws):
    identity = aws.json("sts", "get-caller-identity")
    assert identity["Account"] == ACCOUNT
    assert identity["Arn"].startswith(f"arn:aws:iam::{ACCOUNT}:user/")


def test_a_volume_is_made_and_found_by_filters(aws):
    def new(purpose):
        tags = f"ResourceType=volume,Tags=[{{Key=purpose,Value={purpose}}}]"
        place = ["--availability-zone", f"{REGION}a", "--size", "1", "--volume-type", "gp3"]
        return aws.json("ec2", "create-volume", *place, "--tag-specifications", tags)["VolumeId"]

    wanted, other = new("wanted"), new("other")
    aws.text("ec2", "wait", "volume-available", "--volume-ids", wanted, other)
    filters = ["Name=tag:purpose,Values=wanted,nothing", "Name=status,Values=available"]
    found = aws.json("ec2", "describe-volumes", "--filters", *filters)["Volumes"]
    assert [(one["VolumeId"], one["Size"], one["State"]) for one in found] == [(wanted, 1, "available")]
    query = ["--query", "Volumes[].VolumeId", "--output", "text"]
    assert aws.text("ec2", "describe-volumes", "--filters", filters[0], *query).strip() == wanted


def test_blocks_of_a_waited_for_snapshot_are_read_into_files(aws, tmp_path):
    contents = {0: os.urandom(BLOCK), 3: os.urandom(BLOCK), 2047: bytes(BLOCK)}
    written = aws.json("ebs", "start-snapshot", "--volume-size", "1")["SnapshotId"]
    for index, data in contents.items():
        block = tmp_path / f"in-{index}"
        block.write_bytes(data)
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        put = ["--snapshot-id", written, "--block-index", str(index), "--block-data", str(block)]
        sums = ["--data-length", str(BLOCK), "--checksum", checksum, "--checksum-algorithm", "SHA256"]
        assert aws.json("ebs", "put-snapshot-block", *put, *sums)["Checksum"] == checksum
    aws.json("ebs", "complete-snapshot", "--snapshot-id", written, "--changed-blocks-count", str(len(contents)))
    aws.text("ec2", "wait", "snapshot-completed", "--snapshot-ids", written)

    place = ["--availability-zone", f"{REGION}a", "--snapshot-id", written]
    volume = aws.json("ec2", "create-volume", *place)["VolumeId"]
    aws.text("ec2", "wait", "volume-available", "--volume-ids", volume)
    snapshot = aws.json("ec2", "create-snapshot", "--volume-id", volume)["SnapshotId"]
    aws.text("ec2", "wait", "snapshot-completed", "--snapshot-ids", snapshot)

    listed = aws.json("ebs", "list-snapshot-blocks", "--snapshot-id", snapshot)
    assert (listed["BlockSize"], listed["VolumeSize"]) == (BLOCK, 1)
    assert [one["BlockIndex"] for one in listed["Blocks"]] == sorted(contents)
    for one in listed["Blocks"]:
        index, out = one["BlockIndex"], tmp_path / f"out-{one['BlockIndex']}"
        get = ["--snapshot-id", snapshot, "--block-index", str(index), "--block-token", one["BlockToken"]]
        answer = aws.json("ebs", "get-snapshot-block", *get, str(out))
        data = out.read_bytes()
        assert data == contents[index]
        assert answer["DataLength"] == BLOCK and answer["ChecksumAlgorithm"] == "SHA256"
        assert answer["Checksum"] == base64.b64encode(hashlib.sha256(data).digest()).decode()


def test_instances_come_in_pages(aws, ec2):
    image = new_image(ec2, "for the CLI", ["/dev/xvda"])
    launched = sorted(launch(ec2, image) for _ in range(5))
    found, sizes, more = [], [], []
    while more is not None:
        page = aws.json("ec2", "describe-instances", "--max-items", "2", *more)
        here = [one["InstanceId"] for reservation in page["Reservations"] for one in reservation["Instances"]]
        found, sizes = found + here, sizes + [len(here)]
        token = page.get("NextToken")
        more = ["--starting-token", token] if token else None
    assert (sorted(found), sizes) == (launched, [2, 2, 1])
    # All of them, when the command line itself turns the pages.
    query = ["--page-size", "5", "--query", "Reservations[].Instances[].InstanceId"]
    assert sorted(aws.json("ec2", "describe-instances", *query)) == launched


def test_a_refusal_is_said_with_its_code(aws):
    done = aws.run("ec2", "describe-snapshots", "--snapshot-ids", "snap-0123456789abcdef0")
    # Version 1, which pip has, ends so after every error; version 2 ends with 254 after a service's.
    assert (done.returncode, done.stdout) == (255, "")
    assert "(InvalidSnapshot.NotFound) when calling the DescribeSnapshots operation" in done.stderr
    assert "snap-0123456789abcdef0" in done.stderr
