"""What a restore asks of EC2: launches, limits, swaps of volumes, and the refusals that it has to bear."""

import pytest

from conftest import (
    launch, new_image, new_snapshot, new_volume, refused, shown, volume_state, wait_for, wait_instance, wait_snapshot,
    wait_volume,
)

ACCOUNT, REGION = "555555555555", "eu-central-1"
CODES = ["abcdefghijklmnopqrstuvwxy"]


@pytest.fixture(scope="module")
def image(ec2):
    return new_image(ec2, "restores", ["/dev/xvda"])


@pytest.fixture(scope="module")
def subnet(ec2):
    zone = [{"Name": "availability-zone", "Values": [f"{REGION}a"]}]
    return ec2.describe_subnets(Filters=zone)["Subnets"][0]["SubnetId"]


def attached(ec2, instance):
    return ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance]}])["Volumes"]


def test_a_launch_gets_what_it_asks_for(ec2, image, subnet):
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    instance = launch(
        ec2,
        image,
        IamInstanceProfile={"Name": "web"},
        NetworkInterfaces=[
            {"DeviceIndex": 1, "SubnetId": subnet, "PrivateIpAddress": "10.0.0.101", "DeleteOnTermination": False},
            {"DeviceIndex": 0, "SubnetId": subnet, "PrivateIpAddress": "10.0.0.100", "Groups": [group]},
        ],
        BlockDeviceMappings=[
            {"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": False, "VolumeType": "io1", "Iops": 150, "VolumeSize": 4}},
            {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
        ],
        TagSpecifications=[
            {"ResourceType": kind, "Tags": [{"Key": "of", "Value": kind}]} for kind in ("instance", "volume")
        ],
        MetadataOptions={"HttpTokens": "required"},
        InstanceInitiatedShutdownBehavior="stop",
    )
    one = shown(ec2, instance)
    addresses = [(eni["Attachment"]["DeviceIndex"], eni["PrivateIpAddress"]) for eni in one["NetworkInterfaces"]]
    assert addresses == [(0, "10.0.0.100"), (1, "10.0.0.101")] and one["PrivateIpAddress"] == "10.0.0.100"
    assert [eni["Attachment"]["DeleteOnTermination"] for eni in one["NetworkInterfaces"]] == [True, False]
    assert one["IamInstanceProfile"]["Arn"] == f"arn:aws:iam::{ACCOUNT}:instance-profile/web"
    assert one["Tags"] == [{"Key": "of", "Value": "instance"}]
    (mapping,) = one["BlockDeviceMappings"]
    assert mapping["DeviceName"] == "/dev/xvda" and mapping["Ebs"]["DeleteOnTermination"] is False
    (volume,) = attached(ec2, instance)
    assert (volume["VolumeType"], volume["Iops"], volume["Size"]) == ("io1", 150, 4)
    assert volume["Tags"] == [{"Key": "of", "Value": "volume"}]
    with refused("InvalidIPAddress.InUse"):
        launch(ec2, image, SubnetId=subnet, PrivateIpAddress="10.0.0.101")
    ec2.terminate_instances(InstanceIds=[instance])
    again = launch(ec2, image, SubnetId=subnet, PrivateIpAddress="10.0.0.101")
    assert shown(ec2, again)["PrivateIpAddress"] == "10.0.0.101"


def test_a_launch_that_cannot_be_is_refused_and_makes_nothing(ec2, image, subnet):
    volumes = len(ec2.describe_volumes()["Volumes"])
    cases = [
        ("InvalidSubnetID.NotFound", {"SubnetId": "subnet-0123456789abcdef0"}),
        ("InvalidGroup.NotFound", {"SecurityGroupIds": ["sg-0123456789abcdef0"]}),
        ("InvalidParameterValue", {"SubnetId": subnet, "PrivateIpAddress": "192.168.0.9"}),
        ("InvalidParameterCombination", {"SubnetId": subnet, "NetworkInterfaces": [{"DeviceIndex": 0}]}),
        ("InvalidParameterValue", {"NetworkInterfaces": [{"DeviceIndex": 1}]}),
        ("InvalidAMIID.NotFound", {"ImageId": "ami-0123456789abcdef0"}),
    ]
    for code, given in cases:
        with refused(code):
            launch(ec2, **{"image": given.pop("ImageId", image), **given})
    assert len(ec2.describe_volumes()["Volumes"]) == volumes


def test_key_pairs_count_once_there_is_one(sim, image, ec2):
    launch(ec2, image, KeyName="anything")
    assert ec2.describe_key_pairs()["KeyPairs"] == []
    ec2.create_key_pair(KeyName="operations")
    sim.admin("key-pairs", {"account": ACCOUNT, "region": REGION, "name": "declared"})
    assert [one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]] == ["declared", "operations"]
    assert shown(ec2, launch(ec2, image, KeyName="operations"))["KeyName"] == "operations"
    for call in (lambda: launch(ec2, image, KeyName="anything"), lambda: ec2.describe_key_pairs(KeyNames=["x"])):
        with refused("InvalidKeyPair.NotFound"):
            call()
    with refused("InvalidKeyPair.Duplicate"):
        ec2.create_key_pair(KeyName="operations")


def test_the_root_volume_of_a_stopped_instance_is_swapped(ec2, image):
    instance = launch(ec2, image)
    (old,) = [one["VolumeId"] for one in attached(ec2, instance)]
    with refused("OperationNotPermitted"):
        ec2.detach_volume(VolumeId=old)
    ec2.stop_instances(InstanceIds=[instance])
    wait_instance(ec2, instance, "stopped")
    with refused("InvalidAttachment.NotFound"):
        ec2.detach_volume(VolumeId=old, Device="/dev/sdz")
    assert ec2.detach_volume(VolumeId=old)["State"] == "detaching"
    wait_volume(ec2, old, "available")
    with refused("IncorrectState"):
        ec2.start_instances(InstanceIds=[instance])
    new = new_volume(ec2)
    ec2.attach_volume(VolumeId=new, InstanceId=instance, Device="/dev/xvda")
    ec2.modify_instance_attribute(
        InstanceId=instance, BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": True}}]
    )
    with refused("InvalidInstanceAttributeValue"):
        ec2.modify_instance_attribute(
            InstanceId=instance, BlockDeviceMappings=[{"DeviceName": "/dev/sdq", "Ebs": {"DeleteOnTermination": True}}]
        )
    (mapping,) = ec2.describe_instance_attribute(InstanceId=instance, Attribute="blockDeviceMapping")["BlockDeviceMappings"]
    assert (mapping["Ebs"]["VolumeId"], mapping["Ebs"]["DeleteOnTermination"]) == (new, True)
    ec2.start_instances(InstanceIds=[instance])
    wait_instance(ec2, instance, "running")


def test_attachments_have_a_limit(sim, ec2, image):
    instance = launch(ec2, image, InstanceType="m5d.large")
    quotas = sim.admin("quotas", method="GET")
    assert quotas["attachments_per_instance"] is None
    (kind,) = ec2.describe_instance_types(InstanceTypes=["m5d.large"])["InstanceTypes"]
    assert kind["EbsInfo"]["MaximumEbsAttachments"] == 28 and kind["EbsInfo"]["AttachmentLimitType"] == "shared"
    assert kind["InstanceStorageSupported"] and kind["InstanceStorageInfo"]["TotalSizeInGB"] == 75
    # The root volume, the interface and the instance store disk leave room for 25.
    names = [f"/dev/sd{letter}" for letter in "bcdefghijklmnopqrstuvwxyz"]
    for name in names:
        ec2.attach_volume(VolumeId=new_volume(ec2), InstanceId=instance, Device=name)
    one_more = new_volume(ec2)
    with refused("AttachmentLimitExceeded"):
        ec2.attach_volume(VolumeId=one_more, InstanceId=instance, Device="/dev/sdaa")
    assert volume_state(ec2, one_more) == "available"
    try:
        sim.admin("quotas", {**quotas, "attachments_per_instance": 29}, "PUT")
        ec2.attach_volume(VolumeId=one_more, InstanceId=instance, Device="/dev/sdaa")
        sim.admin("quotas", {**quotas, "attachments_per_instance": 1}, "PUT")
        with refused("AttachmentLimitExceeded"):
            launch(ec2, image)
    finally:
        sim.admin("quotas", quotas, "PUT")
    with refused("InvalidInstanceType"):
        ec2.describe_instance_types(InstanceTypes=["z9.pico"])
    kinds = ec2.describe_instance_types()["InstanceTypes"]
    assert len(kinds) == 34 and not [k for k in kinds if k["InstanceType"] == "t3.large"][0]["InstanceStorageSupported"]


def test_a_failed_volume_gives_nothing(sim, ec2, image):
    instance = launch(ec2, image)
    volume = new_volume(ec2)
    sim.admin("marks", {"id": volume, "is_failed": True})
    assert volume_state(ec2, volume) == "error"
    for call in (
        lambda: ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdf"),
        lambda: ec2.create_snapshot(VolumeId=volume),
    ):
        with refused("IncorrectState"):
            call()
    sim.admin("marks", {"id": volume})
    ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    sim.admin("marks", {"id": volume, "is_failed": True})
    snapshots = len(ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"])
    with refused("IncorrectState"):
        ec2.create_snapshots(InstanceSpecification={"InstanceId": instance})
    assert len(ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]) == snapshots


def test_marketplace_codes_follow_the_volume_and_keep_it_from_other_instances(sim, key, ec2, image):
    volume = new_volume(ec2)
    sim.admin("marks", {"id": volume, "product_codes": CODES})
    codes = [{"ProductCodeId": CODES[0], "ProductCodeType": "marketplace"}]
    assert ec2.describe_volume_attribute(VolumeId=volume, Attribute="productCodes")["ProductCodes"] == codes
    snapshot = new_snapshot(ec2, volume)
    assert ec2.describe_snapshot_attribute(SnapshotId=snapshot, Attribute="productCodes")["ProductCodes"] == codes
    # The EBS direct APIs read it all the same.
    assert sim.client("ebs", key).list_snapshot_blocks(SnapshotId=snapshot)["Blocks"] == []
    # So does another account that the snapshot is shared with get a volume that its node cannot have.
    ec2.modify_snapshot_attribute(
        SnapshotId=snapshot, Attribute="createVolumePermission", OperationType="add", UserIds=["666666666666"]
    )
    other = sim.client("ec2", sim.account("666666666666"))
    node = launch(other, new_image(other, "node", ["/dev/xvda"]))
    copy = new_volume(other, SnapshotId=snapshot)
    with refused("OperationNotPermitted"):
        other.attach_volume(VolumeId=copy, InstanceId=node, Device="/dev/sdf")
    # As the root of a stopped instance it may be used, and the instance has the codes.
    instance = launch(ec2, image)
    (root,) = [one["VolumeId"] for one in attached(ec2, instance)]
    ec2.stop_instances(InstanceIds=[instance])
    wait_instance(ec2, instance, "stopped")
    ec2.detach_volume(VolumeId=root)
    wait_volume(ec2, root, "available")
    ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/xvda")
    assert shown(ec2, instance)["ProductCodes"] == codes


def test_what_is_on_an_outpost_stays_there(sim, key, ec2, image):
    arn = f"arn:aws:outposts:{REGION}:{ACCOUNT}:outpost/op-0123456789abcdef0"
    volume = new_volume(ec2, OutpostArn=arn)
    assert ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["OutpostArn"] == arn
    with refused("InvalidVolume.ZoneMismatch"):
        ec2.attach_volume(VolumeId=volume, InstanceId=launch(ec2, image), Device="/dev/sdf")
    in_region = new_snapshot(ec2, volume)
    local = new_snapshot(ec2, volume, OutpostArn=arn)
    shown_snapshots = ec2.describe_snapshots(SnapshotIds=[in_region, local])["Snapshots"]
    assert {one["SnapshotId"]: one.get("OutpostArn") for one in shown_snapshots} == {in_region: None, local: arn}
    ebs = sim.client("ebs", key)
    assert ebs.list_snapshot_blocks(SnapshotId=in_region)["Blocks"] == []
    with refused("ValidationException"):
        ebs.list_snapshot_blocks(SnapshotId=local)
    with refused("UnsupportedOperation"):
        ec2.create_volume(AvailabilityZone=f"{REGION}a", SnapshotId=local)
    with refused("UnsupportedOperation"):
        ec2.copy_snapshot(SourceRegion=REGION, SourceSnapshotId=local)


def test_a_copy_is_made_in_the_other_region_and_takes_its_time(sim, key, ec2):
    source = new_snapshot(ec2, new_volume(ec2))
    there = sim.client("ec2", key, "us-east-1")
    before = sim.admin("behaviour", method="GET")
    copies = []
    try:
        sim.admin("behaviour", {**before, "copy_millis": 3_600_000}, "PUT")
        for _ in range(20):
            copies.append(there.copy_snapshot(SourceRegion=REGION, SourceSnapshotId=source)["SnapshotId"])
        with refused("ResourceLimitExceeded"):
            there.copy_snapshot(SourceRegion=REGION, SourceSnapshotId=source)
        # The limit is the destination region's.
        copies.append(ec2.copy_snapshot(SourceRegion=REGION, SourceSnapshotId=source)["SnapshotId"])
        one = there.describe_snapshots(SnapshotIds=[copies[0]])["Snapshots"][0]
        assert one["State"] == "pending" and one["Progress"].endswith("%") and one["Progress"] != "100%"
        with refused("IncorrectState"):
            there.create_volume(AvailabilityZone="us-east-1a", SnapshotId=copies[0])
        with refused("InvalidSnapshot.NotFound"):
            there.copy_snapshot(SourceRegion="us-east-1", SourceSnapshotId=source)
    finally:
        sim.admin("behaviour", before, "PUT")
    there.delete_snapshot(SnapshotId=copies[0])
    copy = there.copy_snapshot(SourceRegion=REGION, SourceSnapshotId=source)["SnapshotId"]
    wait_snapshot(there, copy)
    assert there.describe_snapshots(SnapshotIds=[copy])["Snapshots"][0]["Progress"] == "100%"
    assert sim.client("ebs", key, "us-east-1").list_snapshot_blocks(SnapshotId=copy)["VolumeSize"] == 1
