"""S3 and VM import through boto3, unmodified: disk images of every format, made by qemu-img, become snapshots.

Needs AWSSIM_ENDPOINT (http://host:port of a running simulator), and qemu-img in the path.
"""

import json
import os
import subprocess
import time
import urllib.request

import boto3
import botocore.exceptions
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

ENDPOINT = os.environ["AWSSIM_ENDPOINT"]
ACCOUNT, OTHER, REGION = "888888888888", "999999999999", "eu-central-1"
BLOCK, MIB = 524288, 1 << 20
TRUST = {
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "vmie.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:Externalid": "vmimport"}},
        }
    ]
}


def admin(path, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{ENDPOINT}/_awssim/{path}", data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def client(service, key, region=REGION, **config):
    return boto3.client(
        service,
        endpoint_url=ENDPOINT,
        region_name=region,
        aws_access_key_id=key["access_key_id"],
        aws_secret_access_key=key["secret_access_key"],
        config=Config(retries={"max_attempts": 1}, **config),
    )


def refused(call, *codes):
    with pytest.raises(botocore.exceptions.ClientError) as error:
        call()
    assert error.value.response["Error"]["Code"] in codes, error.value.response
    return error.value.response["Error"]["Message"]


@pytest.fixture(scope="module")
def key():
    return admin("accounts", {"account": ACCOUNT})


@pytest.fixture(scope="module")
def s3(key):
    return client("s3", key)


@pytest.fixture(scope="module")
def ec2(key):
    return client("ec2", key)


@pytest.fixture(scope="module")
def bucket(s3):
    s3.create_bucket(Bucket="images", CreateBucketConfiguration={"LocationConstraint": REGION})
    return "images"


@pytest.fixture(scope="module")
def role(bucket):
    policy = {"Statement": [{"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": f"arn:aws:s3:::{bucket}/*"}]}
    admin("roles", {"account": ACCOUNT, "name": "vmimport", "trust": TRUST, "policies": [policy]})


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk of 40 MiB and a sector with data in places: what no block size divides."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    with open(path, "wb") as file:
        file.truncate(40 * MIB + 512)
        for offset, length in [(0, 3 * BLOCK), (9 * MIB + 4096, 70000), (33 * MIB, 8 * MIB - 512 * 2048)]:
            file.seek(offset)
            file.write(os.urandom(length))
        file.seek(40 * MIB + 500)
        file.write(b"the end")
    return path


def wait(ec2, task):
    for _ in range(600):
        detail = ec2.describe_import_snapshot_tasks(ImportTaskIds=[task])["ImportSnapshotTasks"][0]["SnapshotTaskDetail"]
        if detail["Status"] in ("completed", "deleted"):
            return detail
        assert detail["Status"] in ("active", "deleting") and "SnapshotId" not in detail
        time.sleep(0.1)
    raise AssertionError(f"{task} does not end: {detail}")


def start(ec2, key, format, **more):
    container = {"Format": format, "UserBucket": {"S3Bucket": "images", "S3Key": key}}
    return ec2.import_snapshot(DiskContainer=container, **more)["ImportTaskId"]


def blocks(key, snapshot):
    ebs, found, page = client("ebs", key), {}, {}
    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=snapshot, MaxResults=100, **page)
        for block in page["Blocks"]:
            got = ebs.get_snapshot_block(
                SnapshotId=snapshot, BlockIndex=block["BlockIndex"], BlockToken=block["BlockToken"]
            )
            found[block["BlockIndex"]] = got["BlockData"].read()
        if not page.get("NextToken"):
            return found
        page = {"NextToken": page["NextToken"]}


def blocks_of(path):
    found = {}
    with open(path, "rb") as file:
        for index in range(1 << 20):
            block = file.read(BLOCK)
            if not block:
                return found
            if block.strip(b"\0"):
                found[index] = block.ljust(BLOCK, b"\0")


FORMATS = {
    "raw": ("RAW", ["-O", "raw"]),
    "vmdk": ("VMDK", ["-O", "vmdk", "-o", "subformat=streamOptimized"]),
    "vhd": ("VHD", ["-O", "vpc", "-o", "subformat=dynamic,force_size=on"]),
    "fixed.vhd": ("VHD", ["-O", "vpc", "-o", "subformat=fixed,force_size=on"]),
    "rounded.vhd": ("vhd", ["-O", "vpc"]),
}


@pytest.fixture(scope="module")
def images(disk):
    made = {}
    for name, (_, options) in FORMATS.items():
        made[name] = disk.with_suffix(f".{name}.image")
        subprocess.run(["qemu-img", "convert", "-f", "raw", *options, str(disk), str(made[name])], check=True)
    return made


@pytest.mark.parametrize("name", FORMATS)
def test_an_image_of_qemu_becomes_a_snapshot(key, s3, ec2, bucket, role, disk, images, name):
    s3.upload_file(
        str(images[name]), bucket, f"in/{name}", Config=TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    )
    task = start(
        ec2,
        f"in/{name}",
        FORMATS[name][0],
        Description="d",
        TagSpecifications=[{"ResourceType": "import-snapshot-task", "Tags": [{"Key": "run", "Value": name}]}],
    )
    detail = wait(ec2, task)
    assert detail["Status"] == "completed", detail
    snapshot = detail["SnapshotId"]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[snapshot], WaiterConfig={"Delay": 1})
    shown = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
    assert shown["VolumeSize"] == 1 and not shown["Encrypted"]
    assert shown["Description"] == f"Created by AWS-VMImport service for {task}"
    assert blocks(key, snapshot) == blocks_of(disk)
    tagged = ec2.describe_import_snapshot_tasks(Filters=[{"Name": "tag:run", "Values": [name]}])["ImportSnapshotTasks"]
    assert [one["ImportTaskId"] for one in tagged] == [task]
    assert detail["UserBucket"] == {"S3Bucket": bucket, "S3Key": f"in/{name}"}
    assert detail["DiskImageSize"] == os.path.getsize(images[name])
    s3.delete_object(Bucket=bucket, Key=f"in/{name}")
    ec2.delete_snapshot(SnapshotId=snapshot)
    left = admin(f"inventory?account={ACCOUNT}")
    assert not any(left[kind] for kind in ("s3_objects", "s3_uploads", "import_tasks", "snapshots")), left


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_image_leaves_no_snapshot(key, s3, ec2, bucket, role, images, name):
    whole = images[name].read_bytes()
    s3.put_object(Bucket=bucket, Key="cut", Body=b"" if name == "raw" else whole[: len(whole) // 2])
    detail = wait(ec2, start(ec2, "cut", FORMATS[name][0]))
    assert detail["Status"] == "deleted" and "SnapshotId" not in detail
    assert detail["StatusMessage"].startswith("ClientError: Disk validation failed ["), detail
    s3.delete_object(Bucket=bucket, Key="cut")
    assert admin(f"inventory?account={ACCOUNT}")["snapshots"] == []


def test_the_wrong_format_is_said(s3, ec2, bucket, role):
    s3.put_object(Bucket=bucket, Key="plain", Body=b"x" * 4096)
    detail = wait(ec2, start(ec2, "plain", "VMDK"))
    assert "[Unsupported VMDK File Format]" in detail["StatusMessage"]
    s3.delete_object(Bucket=bucket, Key="plain")


def test_what_is_refused_at_once(key, s3, ec2, bucket, role):
    s3.put_object(Bucket=bucket, Key="disk", Body=b"x" * 4096)
    message = refused(lambda: start(ec2, "disk", "RAW", RoleName="nobody"), "InvalidParameter")
    assert message == "The service role nobody provided does not exist or does not have sufficient permissions"
    admin("roles", {"account": ACCOUNT, "name": "untrusting", "trust": {"Statement": []}})
    refused(lambda: start(ec2, "disk", "RAW", RoleName="untrusting"), "InvalidParameter")
    policy = {"Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::elsewhere/*"}]}
    admin("roles", {"account": ACCOUNT, "name": "narrow", "trust": TRUST, "policies": [policy]})
    refused(lambda: start(ec2, "disk", "RAW", RoleName="narrow"), "InvalidParameter")
    refused(lambda: start(ec2, "nothing", "RAW"), "InvalidParameter")
    refused(lambda: start(ec2, "disk", "QCOW2"), "InvalidParameter")
    refused(lambda: start(ec2, "disk", "RAW", DryRun=True), "DryRunOperation")
    message = refused(lambda: start(client("ec2", key, "eu-west-1"), "disk", "RAW"), "InvalidParameter")
    assert "local to the region" in message
    refused(lambda: ec2.describe_import_snapshot_tasks(ImportTaskIds=["import-snap-1"]), "InvalidConversionTaskId")
    s3.delete_object(Bucket=bucket, Key="disk")


def test_a_token_makes_one_task_and_a_url_and_a_key_are_taken(s3, ec2, bucket, role):
    s3.put_object(Bucket=bucket, Key="disk", Body=b"x" * BLOCK)
    arn = admin("keys", {"account": ACCOUNT, "region": REGION, "alias": "alias/k"})["arn"]
    policy = {"Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "kms:*"], "Resource": "*"}]}
    admin("roles", {"account": ACCOUNT, "name": "with-keys", "trust": TRUST, "policies": [policy]})
    disk = {"Format": "RAW", "Url": f"s3://{bucket}/disk"}
    arguments = dict(
        DiskContainer=disk, ClientToken="token", Encrypted=True, KmsKeyId="alias/k", RoleName="with-keys"
    )
    first, again = ec2.import_snapshot(**arguments), ec2.import_snapshot(**arguments)
    assert first["ImportTaskId"] == again["ImportTaskId"]
    refused(lambda: ec2.import_snapshot(**dict(arguments, KmsKeyId="alias/l")), "IdempotentParameterMismatch")
    detail = wait(ec2, first["ImportTaskId"])
    assert detail["Encrypted"] and detail["KmsKeyId"] == arn and detail["Url"] == f"s3://{bucket}/disk"
    shown = ec2.describe_snapshots(SnapshotIds=[detail["SnapshotId"]])["Snapshots"][0]
    assert shown["Encrypted"] and shown["KmsKeyId"] == arn
    task = ec2.import_snapshot(DiskContainer=disk, Encrypted=True, KmsKeyId="alias/k")["ImportTaskId"]
    ended = wait(ec2, task)
    assert ended["Status"] == "deleted" and "not authorized to perform: kms:" in ended["StatusMessage"]
    pages = ec2.get_paginator("describe_import_snapshot_tasks").paginate(PaginationConfig={"PageSize": 2})
    tasks = [task["ImportTaskId"] for page in pages for task in page["ImportSnapshotTasks"]]
    assert len(tasks) == len(set(tasks)) and first["ImportTaskId"] in tasks
    refused(lambda: ec2.cancel_import_task(ImportTaskId=first["ImportTaskId"]), "IncorrectState")
    s3.delete_object(Bucket=bucket, Key="disk")
    ec2.delete_snapshot(SnapshotId=detail["SnapshotId"])


def test_a_task_that_hangs_is_cancelled(s3, ec2, bucket, role):
    s3.put_object(Bucket=bucket, Key="disk", Body=b"x" * BLOCK)
    admin("faults", {"service": "vmie", "effect": {"kind": "hang"}})
    task = start(ec2, "disk", "RAW")
    active = ec2.describe_import_snapshot_tasks(Filters=[{"Name": "task-state", "Values": ["active"]}])
    assert [one["ImportTaskId"] for one in active["ImportSnapshotTasks"]] == [task]
    assert active["ImportSnapshotTasks"][0]["SnapshotTaskDetail"]["StatusMessage"] == "pending"
    assert admin(f"inventory?account={ACCOUNT}")["import_tasks"] == [task]
    cancelled = ec2.cancel_import_task(ImportTaskId=task)
    assert (cancelled["PreviousState"], cancelled["State"]) == ("active", "deleting")
    detail = wait(ec2, task)
    assert detail["Status"] == "deleted" and "cancelled" in detail["StatusMessage"]
    admin("faults", [], method="PUT")
    s3.delete_object(Bucket=bucket, Key="disk")
    left = admin(f"inventory?account={ACCOUNT}")
    assert not any(left[kind] for kind in ("s3_objects", "import_tasks", "snapshots")), left


def test_objects_come_back_whole_and_in_ranges(s3, bucket, tmp_path):
    data = os.urandom(12 * MIB + 5)
    path = tmp_path / "object"
    path.write_bytes(data)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    name = "dir/a b+ü&(1).bin"
    s3.upload_file(str(path), bucket, name, Config=config, ExtraArgs={"Metadata": {"who": "us"}, "ContentType": "x/y"})
    head = s3.head_object(Bucket=bucket, Key=name)
    assert head["ContentLength"] == len(data) and head["Metadata"] == {"who": "us"} and head["ContentType"] == "x/y"
    assert s3.get_object(Bucket=bucket, Key=name)["Body"].read() == data
    part = s3.get_object(Bucket=bucket, Key=name, Range=f"bytes={5 * MIB - 3}-{5 * MIB + 2}")
    assert part["Body"].read() == data[5 * MIB - 3 : 5 * MIB + 3]
    assert part["ContentRange"] == f"bytes {5 * MIB - 3}-{5 * MIB + 2}/{len(data)}"
    back = tmp_path / "back"
    s3.download_file(bucket, name, str(back), Config=config)
    assert back.read_bytes() == data
    refused(lambda: s3.get_object(Bucket=bucket, Key=name, Range=f"bytes={len(data)}-"), "InvalidRange")
    refused(lambda: s3.get_object(Bucket=bucket, Key=name, IfMatch='"no"'), "PreconditionFailed")
    refused(lambda: s3.put_object(Bucket=bucket, Key=name, Body=b"", IfNoneMatch="*"), "PreconditionFailed")
    refused(lambda: s3.get_object(Bucket=bucket, Key="none"), "NoSuchKey")
    refused(lambda: s3.head_object(Bucket=bucket, Key="none"), "404")
    s3.delete_object(Bucket=bucket, Key=name)


def test_listings_have_everything_once(s3, bucket):
    keys = [f"l/{n % 3}/{n:02}" for n in range(10)] + ["l/x y"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="l/", PaginationConfig={"PageSize": 3})
    assert [one["Key"] for page in pages for one in page.get("Contents", [])] == sorted(keys)
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix="l/", Delimiter="/", PaginationConfig={"PageSize": 2}
    )
    pages = list(pages)
    assert [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])] == ["l/0/", "l/1/", "l/2/"]
    assert [one["Key"] for page in pages for one in page.get("Contents", [])] == ["l/x y"]
    refused(lambda: s3.delete_bucket(Bucket=bucket), "BucketNotEmpty")
    gone = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys + ["l/none"]]})
    assert len(gone["Deleted"]) == len(keys) + 1 and not gone.get("Errors")
    assert s3.list_objects_v2(Bucket=bucket, Prefix="l/")["KeyCount"] == 0


def test_an_upload_in_parts_is_checked_and_can_be_aborted(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]

    def send(number, data):
        part = s3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=number, Body=data)
        return {"PartNumber": number, "ETag": part["ETag"]}

    def complete(*parts):
        return s3.complete_multipart_upload(
            Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": list(parts)}
        )

    big, small = send(1, b"a" * 5 * MIB), send(2, b"b")
    other = send(3, b"c")
    refused(lambda: complete(small, big), "InvalidPartOrder")
    refused(lambda: complete(big, small, other), "EntityTooSmall")
    refused(lambda: complete(big, dict(small, ETag=other["ETag"])), "InvalidPart")
    listed = s3.list_parts(Bucket=bucket, Key="parts", UploadId=upload)["Parts"]
    assert [(one["PartNumber"], one["Size"]) for one in listed] == [(1, 5 * MIB), (2, 1), (3, 1)]
    assert [one["UploadId"] for one in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    assert len(admin(f"inventory?account={ACCOUNT}")["s3_uploads"]) == 1
    complete(big, small)
    assert s3.get_object(Bucket=bucket, Key="parts")["Body"].read() == b"a" * 5 * MIB + b"b"
    refused(lambda: send(4, b"d"), "NoSuchUpload")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    send(1, b"x")
    s3.abort_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload)
    refused(lambda: s3.list_parts(Bucket=bucket, Key="parts", UploadId=upload), "NoSuchUpload")
    s3.delete_object(Bucket=bucket, Key="parts")
    left = admin(f"inventory?account={ACCOUNT}")
    assert left["s3_objects"] == [] and left["s3_uploads"] == []


def test_a_bucket_is_its_owners_and_in_one_region(key, s3, bucket):
    stranger = client("s3", admin("accounts", {"account": OTHER}))
    refused(lambda: stranger.list_objects_v2(Bucket=bucket), "AccessDenied")
    refused(lambda: stranger.put_object(Bucket=bucket, Key="k", Body=b""), "AccessDenied")
    make = {"LocationConstraint": REGION}
    refused(lambda: stranger.create_bucket(Bucket=bucket, CreateBucketConfiguration=make), "BucketAlreadyExists")
    refused(lambda: s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=make), "BucketAlreadyOwnedByYou")
    refused(lambda: s3.create_bucket(Bucket="another"), "IllegalLocationConstraintException")
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] == REGION
    assert [one["Name"] for one in s3.list_buckets()["Buckets"]] == [bucket]
    # boto3 follows the region that the redirect names.
    elsewhere = client("s3", key, "eu-west-1")
    elsewhere.put_object(Bucket=bucket, Key="k", Body=b"k")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"k"
    s3.delete_object(Bucket=bucket, Key="k")
    policy = {"Statement": [{"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/in/*"}]}
    writer = client("s3", admin("users", {"account": ACCOUNT, "name": "writer", "policies": [policy]}))
    writer.put_object(Bucket=bucket, Key="in/k", Body=b"k")
    refused(lambda: writer.put_object(Bucket=bucket, Key="out/k", Body=b"k"), "AccessDenied")
    refused(lambda: writer.get_object(Bucket=bucket, Key="in/k"), "AccessDenied")
    refused(lambda: writer.get_object(Bucket=bucket, Key="in/none"), "AccessDenied")
    s3.delete_object(Bucket=bucket, Key="in/k")


def test_a_bad_checksum_and_a_fault_are_answered(s3, bucket):
    refused(lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"k", ChecksumCRC32="AAAAAA=="), "BadDigest")
    admin("faults", {"service": "s3", "action": "PutObject", "effect": {"kind": "throttle"}})
    refused(lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"k"), "SlowDown")
    admin("faults", [], method="PUT")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_bucket_goes_when_it_is_empty(s3, bucket):
    s3.head_bucket(Bucket=bucket)
    s3.delete_bucket(Bucket=bucket)
    refused(lambda: s3.head_bucket(Bucket=bucket), "404")
