#!/usr/bin/env python3
"""Reads a Snapferry library's objects from a folder with nothing but Python: the executable half of FORMAT.md.

    read_library.py FOLDER                       lists recovery points and their volumes
    read_library.py FOLDER POINT VOLUME          lists the volume's blocks: index, hole/zero/data, chunk id
    read_library.py FOLDER POINT VOLUME OUTFOLDER   also writes each chunk's stored record to OUTFOLDER/<chunk id>

The records come out as the client sealed them; opening them takes the tenant's key, which no library holds.
"""
import pathlib
import struct
import sys

CHUNK, LEAF, INTERIOR = 1, 2, 3
TABLE = []
for n in range(256):
    for _ in range(8):
        n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
    TABLE.append(n)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def checked(data, what):
    body, (crc,) = data[:-4], struct.unpack("<I", data[-4:])
    assert crc32c(body) == crc, f"{what} is damaged"
    return body


def index_packs(folder):
    """(kind, id) -> (file, offset); of two copies the one in the newer pack."""
    places = {}
    for path in sorted(folder.glob("packs/*/*.pack")):
        data = path.read_bytes()
        trailer = checked(data[-32:], f"trailer of {path.name}")
        magic, version, _, count, offset, crc = struct.unpack("<8sHHIQI", trailer)
        assert (magic, version) == (b"SFPKEND1", 1)
        footer = data[offset : offset + 45 * count]
        assert crc32c(footer) == crc, f"footer of {path.name} is damaged"
        for i in range(count):
            kind, name, at, _length, _crc = struct.unpack_from("<B32sIII", footer, 45 * i)
            places[kind, name] = (path, at)
    return places


def record(places, kind, name):
    path, at = places[kind, name]
    with path.open("rb") as file:
        file.seek(at)
        magic, found, _, _, length, crc, stored = struct.unpack("<4sBBHII32s", checked(file.read(52), "a record header"))
        body = file.read(length)
    assert (magic, found, stored) == (b"SFRC", kind, name)
    assert crc32c(body) == crc, f"record {name.hex()} is damaged"
    return body


def leaves(places, page):
    data = record(places, INTERIOR, page)
    magic, version, level, _, count, _present = struct.unpack_from("<4sHBBHH", data)
    assert (magic, version) == (b"SFIN", 1)
    at = 12 + (count + 7) // 8
    for slot in range(count):
        if data[12 + slot // 8] >> (slot % 8) & 1:
            child = data[at : at + 32]
            at += 40
            if level == 1:
                yield child
            else:
                yield from leaves(places, child)


def entries(places, page):
    data = record(places, LEAF, page)
    magic, version, count, leaf_index, _n_data = struct.unpack_from("<4sHHII", data)
    assert (magic, version) == (b"SFLF", 1)
    at = 16 + (count + 3) // 4
    for slot in range(count):
        state = data[16 + slot // 4] >> (2 * (slot % 4)) & 3
        chunk = None
        if state == 2:
            chunk, at = data[at : at + 32], at + 32
        yield leaf_index * 1024 + slot, ("hole", "zero", "data")[state], chunk


def blob(data, at):
    (length,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + length], at + 4 + length


def points(folder):
    for path in sorted(folder.glob("points/*.point")):
        data = checked(path.read_bytes(), path.name)
        assert data[:10] == b"SFPOINT1\x01\x00"
        (created,) = struct.unpack_from("<Q", data, 42)
        key, at = blob(data, 50)
        tenant, at = blob(data, at)
        (count,) = struct.unpack_from("<H", data, at)
        at += 2
        volumes = []
        for _ in range(count):
            name, at = blob(data, at)
            n_blocks, root, n_data, n_zero = struct.unpack_from("<I32sII", data, at)
            at += 44
            volumes.append((name.decode(), n_blocks, root, n_data, n_zero))
        yield path.stem, key.decode(), tenant.decode(), created, volumes


def main():
    folder = pathlib.Path(sys.argv[1])
    if len(sys.argv) == 2:
        for name, key, tenant, created, volumes in points(folder):
            for volume, n_blocks, _, n_data, n_zero in volumes:
                print(name, key, tenant, created, volume, n_blocks, n_data, n_zero)
        return
    volumes = {name: found for name, _, _, _, found in points(folder)}[sys.argv[2]]
    root = {name: root for name, _, root, _, _ in volumes}[sys.argv[3]]
    places = index_packs(folder)
    for page in leaves(places, root):
        for index, state, chunk in entries(places, page):
            if state != "hole":
                print(index, state, chunk.hex() if chunk else "-")
            if chunk and len(sys.argv) > 4:
                (pathlib.Path(sys.argv[4]) / chunk.hex()).write_bytes(record(places, CHUNK, chunk))


if __name__ == "__main__":
    main()
