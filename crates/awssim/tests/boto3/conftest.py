"""A simulator to talk to: the admin endpoint, clients, waiting. The server of AWSSIM_ENDPOINT is shared by all tests."""

import json
import os
import time
import urllib.error
import urllib.request

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config


class Simulator:
    """One running awssim."""

    def __init__(self, endpoint):
        self.endpoint = endpoint

    def admin(self, path, body=None, method="POST"):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.endpoint}/_awssim/{path}", data, {"content-type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    def client(self, service, key, region="eu-central-1"):
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=region,
            aws_access_key_id=key["access_key_id"],
            aws_secret_access_key=key["secret_access_key"],
            config=Config(retries={"total_max_attempts": 1}),
        )

    def account(self, account):
        """A key of an administrator."""
        return self.admin("accounts", {"account": account})


def wait_for(what, condition, seconds=10):
    """Waits for a condition, and answers what it came to."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, f"{what} did not come about"
        time.sleep(0.01)
    return found


def volume_state(ec2, volume):
    return ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"]


def wait_volume(ec2, volume, state):
    wait_for(f"{volume} {state}", lambda: volume_state(ec2, volume) == state)


def new_volume(ec2, size=1, zone="eu-central-1a", **more):
    volume = ec2.create_volume(AvailabilityZone=zone, Size=size, VolumeType="gp3", **more)["VolumeId"]
    wait_volume(ec2, volume, "available")
    return volume


def wait_snapshot(ec2, snapshot):
    wait_for(
        f"{snapshot} completed",
        lambda: ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "completed",
    )


def new_snapshot(ec2, volume, **more):
    snapshot = ec2.create_snapshot(VolumeId=volume, **more)["SnapshotId"]
    wait_snapshot(ec2, snapshot)
    return snapshot


def new_image(ec2, name, devices):
    """An image over blank snapshots; the first device is the root."""
    snapshot = new_snapshot(ec2, new_volume(ec2))
    return ec2.register_image(
        Name=name,
        Architecture="x86_64",
        RootDeviceName=devices[0],
        BlockDeviceMappings=[{"DeviceName": one, "Ebs": {"SnapshotId": snapshot}} for one in devices],
    )["ImageId"]


def shown(ec2, instance):
    return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]


def wait_instance(ec2, instance, state):
    wait_for(f"{instance} {state}", lambda: shown(ec2, instance)["State"]["Name"] == state)


def launch(ec2, image, **more):
    given = {"InstanceType": "m6i.large", "MinCount": 1, "MaxCount": 1, **more}
    if not {"SubnetId", "NetworkInterfaces"} & set(more):
        given["Placement"] = {"AvailabilityZone": "eu-central-1a"}
    instance = ec2.run_instances(ImageId=image, **given)["Instances"][0]["InstanceId"]
    wait_instance(ec2, instance, "running")
    return instance


class refused:
    """Expects an AWS error of this code."""

    def __init__(self, code):
        self.code = code

    def __enter__(self):
        self.error = pytest.raises(botocore.exceptions.ClientError)
        self.caught = self.error.__enter__()
        return self.caught

    def __exit__(self, *raised):
        done = self.error.__exit__(*raised)
        assert self.caught.value.response["Error"]["Code"] == self.code, self.caught.value
        return done


@pytest.fixture(scope="session")
def sim():
    return Simulator(os.environ["AWSSIM_ENDPOINT"])


@pytest.fixture(scope="module")
def key(sim, request):
    """A key of an administrator of the module's ACCOUNT."""
    return sim.account(request.module.ACCOUNT)


@pytest.fixture(scope="module")
def ec2(sim, key):
    return sim.client("ec2", key)
