"""Volumes of access nodes are block devices of this machine: bytes go through the kernel. Needs root."""

import mmap
import os
import signal
import subprocess

import pytest

from conftest import (
    Simulator, launch, new_image, new_snapshot, new_volume, refused, shown, volume_state, wait_for, wait_volume,
)

ACCOUNT, REGION, BLOCK = "444444444444", "eu-central-1", 524288


@pytest.fixture(autouse=True, scope="module")
def root():
    assert os.geteuid() == 0, "these tests make loop devices: run them as root"


def access_node(sim, ec2, directory):
    node = launch(ec2, new_image(ec2, os.path.basename(directory), ["/dev/xvda"]))
    sim.admin(
        "access-nodes",
        {"account": ACCOUNT, "region": REGION, "instance": node, "device_dir": str(directory)},
    )
    return node


@pytest.fixture(scope="module")
def ebs(sim, key):
    return sim.client("ebs", key)


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def node(sim, ec2, devices):
    return access_node(sim, ec2, devices)


def link_of(devices, volume):
    return f"{devices}/nvme-Amazon_Elastic_Block_Store_{volume.replace('-', '')}"


def attach(ec2, node, volume, device="/dev/sdf"):
    answer = ec2.attach_volume(VolumeId=volume, InstanceId=node, Device=device)
    assert answer["State"] == "attaching"
    wait_for("attached", lambda: attachment(ec2, volume)["State"] == "attached")


def attachment(ec2, volume):
    return ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"][0]


def detach(ec2, volume, **more):
    answer = ec2.detach_volume(VolumeId=volume, **more)
    assert answer["State"] == "detaching"
    wait_volume(ec2, volume, "available")


def write(device, index, byte):
    """A block past the page cache, as a media agent writes it."""
    with mmap.mmap(-1, BLOCK) as page:
        page[:] = bytes([byte]) * BLOCK
        handle = os.open(device, os.O_WRONLY | os.O_DIRECT)
        try:
            assert os.pwrite(handle, page, index * BLOCK) == BLOCK
        finally:
            os.close(handle)


def read(device, index):
    with mmap.mmap(-1, BLOCK) as page:
        handle = os.open(device, os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.preadv(handle, [page], index * BLOCK) == BLOCK
        finally:
            os.close(handle)
        return page[:]


def blocks(ebs, snapshot):
    listed = ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]
    def content(one):
        return ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=one["BlockIndex"], BlockToken=one["BlockToken"])
    return {one["BlockIndex"]: content(one)["BlockData"].read() for one in listed}


def loops_below(directory):
    listed = subprocess.run(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if line.strip().startswith(str(directory))]


def test_what_is_written_through_the_device_is_in_the_next_snapshot(ec2, ebs, node, devices):
    volume = new_volume(ec2)
    before = new_snapshot(ec2, volume)
    attach(ec2, node, volume)
    device = link_of(devices, volume)
    assert os.path.realpath(device).startswith("/dev/loop")
    assert volume_state(ec2, volume) == "in-use"
    size = int(subprocess.check_output(["blockdev", "--getsize64", device]))
    assert size == 1 << 30
    write(device, 3, 0xA7)
    write(device, 2047, 0x11)
    # A snapshot of an attached volume has what was written, too.
    assert blocks(ebs, new_snapshot(ec2, volume)) == {3: b"\xa7" * BLOCK, 2047: b"\x11" * BLOCK}
    write(device, 3, 0x00)
    detach(ec2, volume)
    assert not os.path.lexists(device)
    after = new_snapshot(ec2, volume)
    assert blocks(ebs, after) == {3: b"\0" * BLOCK, 2047: b"\x11" * BLOCK}
    changed = ebs.list_changed_blocks(FirstSnapshotId=before, SecondSnapshotId=after)["ChangedBlocks"]
    assert [one["BlockIndex"] for one in changed] == [3, 2047]
    ec2.delete_volume(VolumeId=volume)


def test_a_volume_of_a_snapshot_is_read_through_the_device(ec2, ebs, node, devices):
    source = new_volume(ec2)
    attach(ec2, node, source)
    write(link_of(devices, source), 5, 0x5A)
    detach(ec2, source)
    copy = new_volume(ec2, SnapshotId=new_snapshot(ec2, source))
    attach(ec2, node, copy)
    assert read(link_of(devices, copy), 5) == b"\x5a" * BLOCK
    assert read(link_of(devices, copy), 6) == bytes(BLOCK)
    detach(ec2, copy)


def test_a_volume_that_is_open_stays_detaching_until_it_is_closed(ec2, ebs, node, devices):
    volume = new_volume(ec2)
    attach(ec2, node, volume)
    with open(link_of(devices, volume), "wb", buffering=0) as device:
        assert ec2.detach_volume(VolumeId=volume)["State"] == "detaching"
        assert attachment(ec2, volume)["State"] == "detaching"
        with refused("VolumeInUse"):
            ec2.delete_volume(VolumeId=volume)
        # Asked again it is on its way still, and what is written meanwhile counts.
        assert ec2.detach_volume(VolumeId=volume)["State"] == "detaching"
        device.write(b"\x77" * BLOCK)
        assert volume_state(ec2, volume) == "in-use"
    wait_volume(ec2, volume, "available")
    assert blocks(ebs, new_snapshot(ec2, volume)) == {0: b"\x77" * BLOCK}


def test_force_makes_a_volume_available_that_is_open(ec2, node, devices):
    volume = new_volume(ec2)
    attach(ec2, node, volume)
    with open(link_of(devices, volume), "rb", buffering=0):
        ec2.detach_volume(VolumeId=volume, Force=True)
        assert volume_state(ec2, volume) == "available"
        assert not os.path.lexists(link_of(devices, volume))


def test_terminating_the_node_lets_its_devices_go(sim, ec2, tmp_path):
    node = access_node(sim, ec2, tmp_path / "node-that-goes")
    volume = new_volume(ec2)
    attach(ec2, node, volume)
    link = link_of(tmp_path / "node-that-goes", volume)
    assert os.path.lexists(link)
    ec2.terminate_instances(InstanceIds=[node])
    assert volume_state(ec2, volume) == "available" and not os.path.lexists(link)


def test_another_instance_gets_no_device(ec2, devices):
    other = launch(ec2, new_image(ec2, "other", ["/dev/xvda"]))
    volume = new_volume(ec2)
    attach(ec2, other, volume)
    assert not os.path.lexists(link_of(devices, volume))
    detach(ec2, volume, InstanceId=other)


def test_an_access_node_has_to_be_there(sim):
    with pytest.raises(Exception, match="400"):
        sim.admin(
            "access-nodes",
            {"account": ACCOUNT, "region": REGION, "instance": "i-0123456789abcdef0", "device_dir": "/tmp"},
        )


class Process:
    """awssim as a process of its own."""

    def __init__(self, data, **environment):
        command = [os.environ["AWSSIM_BINARY"], "--listen", "127.0.0.1:0", "--data", str(data)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **environment}
        )
        self.sim = Simulator(self.process.stdout.readline().split()[-1])

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(20)
        self.process.stdout.close()


def test_a_killed_server_takes_its_devices_up_again_and_a_stopped_one_leaves_none(tmp_path):
    data, devices = tmp_path / "data", tmp_path / "devices"
    server = Process(data)
    try:
        key = server.sim.account(ACCOUNT)
        ec2 = server.sim.client("ec2", key)
        node = access_node(server.sim, ec2, devices)
        kept, deleted = new_volume(ec2), new_volume(ec2)
        attach(ec2, node, kept)
        attach(ec2, node, deleted, "/dev/sdg")
        write(link_of(devices, kept), 9, 0x99)
        world = data / "world.json"
        wait_for("the world's file", world.exists)
        wait_for("the world on disk", lambda: kept in (text := world.read_text()) and deleted in text)
        wait_for("the links on disk", lambda: world.read_text().count("nvme-Amazon") == 2)
        server.end(signal.SIGKILL)
        assert len(loops_below(data)) == 2, "a killed server cannot clean up"
        server = Process(data)
        assert len(loops_below(data)) == 2, "the stale devices went, and new ones came"
        ec2, ebs = server.sim.client("ec2", key), server.sim.client("ebs", key)
        assert read(link_of(devices, kept), 9) == b"\x99" * BLOCK
        detach(ec2, deleted)
        assert len(loops_below(data)) == 1
        server.end(signal.SIGTERM)
        assert loops_below(data) == [] and os.listdir(devices) == []
        server = Process(data)
        ec2, ebs = server.sim.client("ec2", key), server.sim.client("ebs", key)
        detach(ec2, kept)
        assert blocks(ebs, new_snapshot(ec2, kept)) == {9: b"\x99" * BLOCK}
        assert loops_below(data) == [] and os.listdir(devices) == []
    finally:
        server.end(signal.SIGTERM)


def test_without_losetup_the_attach_says_what_it_needs(tmp_path):
    server = Process(tmp_path / "data", PATH="/nowhere")
    try:
        ec2 = server.sim.client("ec2", server.sim.account(ACCOUNT))
        node = access_node(server.sim, ec2, tmp_path / "devices")
        volume = new_volume(ec2)
        with refused("InternalError") as error:
            ec2.attach_volume(VolumeId=volume, InstanceId=node, Device="/dev/sdf")
        assert "losetup" in str(error.value) and "root" in str(error.value)
        assert volume_state(ec2, volume) == "available"
    finally:
        server.end(signal.SIGTERM)
