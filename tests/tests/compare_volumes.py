"""Compares pairs of volumes, written `vol-a=vol-b`, block by block: takes snapshots, reads them over EBS direct."""

import hashlib
import sys
import time

import boto3

ec2 = boto3.client("ec2")
ebs = boto3.client("ebs")


def snapshot_of(volume):
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    limit = time.monotonic() + 60
    while ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] != "completed":
        assert time.monotonic() < limit, f"{snapshot} is not completed"
        time.sleep(0.05)
    return snapshot


def blocks_of(volume):
    """SHA-256 of every written block, by its index. Blocks of zeroes are left out: a volume reads holes as zeroes."""
    snapshot = snapshot_of(volume)
    found, more = {}, {}
    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=snapshot, **more)
        for block in page.get("Blocks", []):
            reply = ebs.get_snapshot_block(
                SnapshotId=snapshot, BlockIndex=block["BlockIndex"], BlockToken=block["BlockToken"]
            )
            data = reply["BlockData"].read()
            if data.count(0) != len(data):
                found[block["BlockIndex"]] = hashlib.sha256(data).hexdigest()
        if "NextToken" not in page:
            break
        more = {"NextToken": page["NextToken"]}
    ec2.delete_snapshot(SnapshotId=snapshot)
    return page["VolumeSize"], found


differ = False
for pair in sys.argv[1:]:
    one, other = pair.split("=")
    (size, before), (restored_size, after) = blocks_of(one), blocks_of(other)
    wrong = sorted(index for index in before.keys() | after.keys() if before.get(index) != after.get(index))
    assert before, f"{one} holds nothing"
    if wrong or size != restored_size:
        differ = True
        print(f"{one} and {other} differ at block {wrong[:5]}, {size} and {restored_size} GiB")
    else:
        print(f"{one} and {other} are equal: {len(before)} blocks")
sys.exit(differ)
