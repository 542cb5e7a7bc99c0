"""The six EBS direct calls through an unmodified boto3.

Needs AWSSIM_ENDPOINT (http://host:port of a running simulator) and credentials of an account administrator in the
usual AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION.
"""

import base64
import hashlib
import json
import os
import urllib.request

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config

BLOCK = 524288
ZERO_SHA = "B4VNL+8pega6gWheZgwzLeNtXRjVRpJ9MNqtbX/aFUE="


@pytest.fixture(scope="module")
def ebs():
    # Ten StartSnapshot calls a second are AWS's limit, and these tests make more where the machine is quick. Rates have
    # tests of their own.
    before = admin("quotas", method="GET")
    admin("quotas", {**before, "enabled": False}, "PUT")
    yield boto3.client(
        "ebs",
        endpoint_url=os.environ["AWSSIM_ENDPOINT"],
        region_name=os.environ.get("AWS_REGION", "us-east-1"),
        config=Config(retries={"max_attempts": 1}),
    )
    admin("quotas", before, "PUT")


def wait_until_completed(snapshot):
    ec2 = boto3.client(
        "ec2",
        endpoint_url=os.environ["AWSSIM_ENDPOINT"],
        region_name=os.environ.get("AWS_REGION", "us-east-1"),
    )
    ec2.get_waiter("snapshot_completed").wait(
        SnapshotIds=[snapshot], WaiterConfig={"Delay": 1, "MaxAttempts": 20}
    )


def sha(data):
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def content(index):
    return bytes([index % 256]) * BLOCK


def put(ebs, snapshot, index, data, **kw):
    args = dict(
        SnapshotId=snapshot, BlockIndex=index, BlockData=data, DataLength=BLOCK,
        Checksum=sha(data), ChecksumAlgorithm="SHA256",
    )
    args.update(kw)
    return ebs.put_snapshot_block(**args)


def write_snapshot(ebs, blocks, **start):
    snapshot = ebs.start_snapshot(VolumeSize=1, **start)["SnapshotId"]
    for index, data in blocks.items():
        assert put(ebs, snapshot, index, data)["Checksum"] == sha(data)
    linear = hashlib.sha256(b"".join(hashlib.sha256(blocks[i]).digest() for i in sorted(blocks))).digest()
    done = ebs.complete_snapshot(
        SnapshotId=snapshot, ChangedBlocksCount=len(blocks), Checksum=base64.b64encode(linear).decode(),
        ChecksumAlgorithm="SHA256", ChecksumAggregationMethod="LINEAR",
    )
    assert done["Status"] in ("pending", "completed")
    wait_until_completed(snapshot)
    return snapshot


def list_all(call, key, **kw):
    found = []
    while True:
        page = call(**kw)
        assert page["BlockSize"] == BLOCK and page["VolumeSize"] == 1
        found += page[key]
        if not page.get("NextToken"):
            indexes = [block["BlockIndex"] for block in found]
            assert indexes == sorted(set(indexes))
            return found
        kw["NextToken"] = page["NextToken"]


def refused(code, reason=None):
    class Check:
        def __enter__(self):
            self.raises = pytest.raises(botocore.exceptions.ClientError)
            self.info = self.raises.__enter__()

        def __exit__(self, *exc):
            handled = self.raises.__exit__(*exc)
            response = self.info.value.response
            assert response["Error"]["Code"] == code
            assert reason is None or response["Reason"] == reason
            return handled

    return Check()


def test_written_snapshot_reads_back(ebs):
    blocks = {0: content(0), 7: os.urandom(BLOCK), 2047: content(9)}
    start = ebs.start_snapshot(
        VolumeSize=1, Description="d", Tags=[{"Key": "k", "Value": "v"}], Timeout=10, ClientToken="token-1"
    )
    assert start["Status"] == "pending" and start["Tags"] == [{"Key": "k", "Value": "v"}]
    again = ebs.start_snapshot(
        VolumeSize=1, Description="d", Tags=[{"Key": "k", "Value": "v"}], Timeout=10, ClientToken="token-1"
    )
    assert again["SnapshotId"] == start["SnapshotId"]
    with refused("ConflictException"):
        ebs.start_snapshot(VolumeSize=2, ClientToken="token-1")

    snapshot = write_snapshot(ebs, blocks)
    listed = list_all(ebs.list_snapshot_blocks, "Blocks", SnapshotId=snapshot, MaxResults=100)
    assert [block["BlockIndex"] for block in listed] == [0, 7, 2047]
    for block in listed:
        got = ebs.get_snapshot_block(
            SnapshotId=snapshot, BlockIndex=block["BlockIndex"], BlockToken=block["BlockToken"]
        )
        data = got["BlockData"].read()
        assert data == blocks[block["BlockIndex"]]
        assert got["DataLength"] == BLOCK and got["ChecksumAlgorithm"] == "SHA256" and got["Checksum"] == sha(data)
    first = ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=0, BlockToken=listed[0]["BlockToken"])
    assert first["Checksum"] == ZERO_SHA

    later = list_all(ebs.list_snapshot_blocks, "Blocks", SnapshotId=snapshot, StartingBlockIndex=8)
    assert [block["BlockIndex"] for block in later] == [2047]


def test_changes_against_a_parent(ebs):
    parent = write_snapshot(ebs, {1: content(1), 2: content(2)})
    child = write_snapshot(ebs, {2: content(3), 5: content(5)}, ParentSnapshotId=parent)
    changed = list_all(
        ebs.list_changed_blocks, "ChangedBlocks", FirstSnapshotId=parent, SecondSnapshotId=child
    )
    assert [block["BlockIndex"] for block in changed] == [2, 5]
    assert "FirstBlockToken" in changed[0] and "SecondBlockToken" in changed[0]
    assert "FirstBlockToken" not in changed[1]
    got = ebs.get_snapshot_block(SnapshotId=child, BlockIndex=5, BlockToken=changed[1]["SecondBlockToken"])
    assert got["BlockData"].read() == content(5)
    stranger = write_snapshot(ebs, {1: content(1)})
    with refused("ValidationException", "UNRELATED_SNAPSHOTS"):
        ebs.list_changed_blocks(FirstSnapshotId=stranger, SecondSnapshotId=child)


def test_wrong_requests_are_refused_as_aws_does(ebs):
    snapshot = write_snapshot(ebs, {1: content(1), 2: content(2)})
    blocks = ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]
    with refused("ValidationException", "INVALID_BLOCK_TOKEN"):
        ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=1, BlockToken=blocks[1]["BlockToken"])
    with refused("ValidationException", "INVALID_PAGE_TOKEN"):
        ebs.list_snapshot_blocks(SnapshotId=snapshot, NextToken="AAAA")
    with refused("ResourceNotFoundException", "SNAPSHOT_NOT_FOUND"):
        ebs.list_snapshot_blocks(SnapshotId="snap-0123456789abcdef0")
    with refused("ValidationException", "INVALID_SNAPSHOT_ID"):
        put(ebs, snapshot, 1, content(1))

    pending = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    with refused("ValidationException", "INVALID_SNAPSHOT_ID"):
        ebs.list_snapshot_blocks(SnapshotId=pending)
    with refused("ValidationException", "INVALID_BLOCK"):
        put(ebs, pending, 1, content(1), Checksum=ZERO_SHA)
    with refused("ValidationException", "INVALID_BLOCK"):
        put(ebs, pending, 2048, content(1))
    with refused("ValidationException"):
        put(ebs, pending, 1, b"short", DataLength=5)
    put(ebs, pending, 1, content(1))
    put(ebs, pending, 1, content(1))
    with refused("ValidationException"):
        ebs.complete_snapshot(SnapshotId=pending, ChangedBlocksCount=2)
    with refused("ValidationException"):
        ebs.complete_snapshot(
            SnapshotId=pending, ChangedBlocksCount=1, Checksum=ZERO_SHA, ChecksumAlgorithm="SHA256",
            ChecksumAggregationMethod="LINEAR",
        )
    assert ebs.complete_snapshot(SnapshotId=pending, ChangedBlocksCount=1)["Status"] in ("pending", "completed")
    with refused("ValidationException", "INVALID_VOLUME_SIZE"):
        ebs.start_snapshot(VolumeSize=65537)


def admin(path, body=None, method="POST"):
    request = urllib.request.Request(
        f"{os.environ['AWSSIM_ENDPOINT']}/_awssim/{path}",
        None if body is None else json.dumps(body).encode(),
        {"content-type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def test_a_started_snapshot_that_is_left_alone_is_described_as_failed(ebs):
    ec2 = boto3.client(
        "ec2",
        endpoint_url=os.environ["AWSSIM_ENDPOINT"],
        region_name=os.environ.get("AWS_REGION", "us-east-1"),
    )
    left_alone = ebs.start_snapshot(VolumeSize=1, Timeout=10)["SnapshotId"]

    def state():
        return ec2.describe_snapshots(SnapshotIds=[left_alone])["Snapshots"][0]["State"]

    assert state() == "pending"
    admin("clock", {"advance_seconds": 11 * 60})
    assert state() == "error"


def test_the_limit_of_pending_snapshots_is_a_quota(ebs):
    pending = [ebs.start_snapshot(VolumeSize=1)["SnapshotId"] for _ in range(2)]
    quotas = admin("quotas", method="GET")
    admin("quotas", {**quotas, "pending_snapshots": 2}, "PUT")
    try:
        with refused("ConcurrentLimitExceededException"):
            ebs.start_snapshot(VolumeSize=1)
    finally:
        admin("quotas", quotas, "PUT")
    for snapshot in pending:
        ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=0)
