# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Opens whatever holds LiDAR scans: a file, a folder of files of one kind, a standard download, or a ROS bag.

What goes in: a path. What comes out: a `ScanSource`, which reads a scan when it is asked for.
Files that are no scans (poses, times, tables: anything but the endings below) are left alone. The order is by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from copilot4d_core.data import argoverse, kitti, nuscenes, waymo
from copilot4d_core.data.bag import BagScans
from copilot4d_core.data.file_scans import FileList, FileScans, file_names
from copilot4d_core.data.pcd import read_pcd
from copilot4d_core.data.scan import Scan, ScanSource

READERS: dict[str, Callable[[Path], Scan]] = {
    ".pcd.bin": nuscenes.read_nuscenes, ".bin": kitti.read_kitti, ".pcd": read_pcd, ".feather": argoverse.read_argoverse}
"""Reader of each ending; the first that fits counts."""
BAG_ENDINGS = (".bag", ".mcap", ".db3")
LAYOUTS = (kitti.LAYOUT, nuscenes.LAYOUT, argoverse.LAYOUT, waymo.LAYOUT)
EXPECTED = ("KITTI .bin, nuScenes .pcd.bin, .pcd, Argoverse 2 .feather, a ROS bag (.bag, .mcap, .db3 or a bag folder), or a download of "
            "KITTI Odometry, SemanticKITTI, nuScenes, Argoverse 2 or converted Waymo")


def open_scans(path: Path, topic: str | None = None) -> ScanSource:
    """Scans of a file, a folder, a standard download or a bag.

    Args:
        path: what to open.
        topic: PointCloud2 topic of a bag; None takes the only one.
    Raises:
        ValueError: nothing there, nothing readable there, files of several kinds, several splits or data sets, or a topic for files.
    """
    path = Path(path)
    bag = bag_in(path)
    if bag is not None:
        return BagScans(bag, topic)
    source = _open_files(path)
    if topic is not None:
        raise ValueError(f"{path}: a topic ({topic!r}) is only for bags, these are files; leave it out")
    return source


def open_all(paths: list[Path], topic: str | None) -> list[ScanSource]:
    """Scans of several paths; the topic is that of the bags among them, in each of which it must be.

    Raises:
        ValueError: as for `open_scans`, or a topic where none is a bag.
    """
    bags = [bag_in(path) is not None for path in paths]
    if topic is not None and not any(bags):
        raise ValueError(f"{' '.join(map(str, paths))}: a topic ({topic!r}) is only for bags, these are files; leave it out")
    return [open_scans(path, topic if is_bag else None) for path, is_bag in zip(paths, bags, strict=True)]


def bag_in(path: Path) -> Path | None:
    """The bag that a path is, or the only one in a folder; None: no bag.

    Raises:
        ValueError: there is no such path, or the folder holds several bags or other scans beside one.
    """
    if not path.exists():
        raise ValueError(f"{path}: expected {EXPECTED}, there is no such file or folder")
    if path.is_file():
        return path if path.name.lower().endswith(BAG_ENDINGS) else None
    if (path / "metadata.yaml").is_file():
        return path
    endings = _by_ending(file_names(path))
    bags = sorted(name for ending in BAG_ENDINGS for name in endings.get(ending, []))
    if not bags:
        return None
    if len(bags) > 1:
        raise ValueError(f"{path}: expected one bag, the folder holds {', '.join(bags)}; name one of them")
    _only_ending(path, endings)
    return path / bags[0]


def _by_ending(names: list[str]) -> dict[str, list[str]]:
    """Names of the files that may hold scans, by ending."""
    found: dict[str, list[str]] = {}
    for name in names:
        ending = next((end for end in (*READERS, *BAG_ENDINGS) if name.lower().endswith(end)), None)
        if ending is not None:
            found.setdefault(ending, []).append(name)
    return found


def _open_files(path: Path) -> FileScans:
    if path.is_dir():
        return _open_download(path) or _open_folder(path)
    ending = _only_ending(path, _by_ending([path.name]))
    read = waymo.read_waymo if waymo.is_waymo(path) else READERS[ending]
    return FileScans(path.name.removesuffix(ending), FileList([path.parent], [[path.name]]), read)


def _open_download(path: Path) -> FileScans | None:
    found = [(layout, folders) for layout in LAYOUTS if (folders := layout.folders(path))]
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(f"{path}: expected one data set, the folder holds {' and '.join(layout.name for layout, _ in found)}; "
                         f"name one of them, such as {found[0][1][0]}")
    layout, folders = found[0]
    names = [[name for name in file_names(folder) if name.lower().endswith(layout.ending)] for folder in folders]
    if not any(names):
        raise ValueError(f"{path}: expected {layout.ending} files of {layout.name}, found none in {len(folders)} folders such as {folders[0]}")
    return FileScans(path.absolute().name, FileList(folders, names, layout.by_name), layout.read, root=path if len(folders) > 1 else None)


def _open_folder(path: Path) -> FileScans:
    endings = _by_ending(file_names(path))
    ending = _only_ending(path, endings)
    return FileScans(path.absolute().name, FileList([path], [endings[ending]]), READERS[ending])


def _only_ending(path: Path, endings: dict[str, list[str]]) -> str:
    if not endings:
        raise ValueError(f"{path}: expected {EXPECTED}, found none of them")
    if len(endings) > 1:
        found = ", ".join(f"{len(names)} {ending}" for ending, names in sorted(endings.items()))
        raise ValueError(f"{path}: expected scans of one kind, the folder holds {found}; name one file or move the others")
    return next(iter(endings))
