"""Opens whatever holds LiDAR scans: a file, a folder of files of one kind, or a ROS bag.

What goes in: a path. What comes out: a `ScanSource`, which reads a scan when it is asked for.
Files that are no scans (poses, times, tables: anything but the endings below) are left alone. The order is by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from copilot4d_core.data.bag import BagScans
from copilot4d_core.data.kitti import read_kitti
from copilot4d_core.data.nuscenes import read_nuscenes
from copilot4d_core.data.pcd import read_pcd
from copilot4d_core.data.scan import Scan, ScanSource

READERS: dict[str, Callable[[Path], Scan]] = {".pcd.bin": read_nuscenes, ".bin": read_kitti, ".pcd": read_pcd}
"""Reader of each ending; the first that fits counts."""
BAG_ENDINGS = (".bag", ".mcap", ".db3")
REFUSED = {".feather": "Argoverse 2 tables are not read; convert them to .pcd or KITTI .bin"}
EXPECTED = "KITTI .bin, nuScenes .pcd.bin, .pcd, or a ROS bag (.bag, .mcap, .db3 or a bag folder)"


class FileScans:
    """Scans that lie in one file each."""

    def __init__(self, name: str, paths: list[Path], read: Callable[[Path], Scan]) -> None:
        self._name, self._paths, self._read = name, paths, read

    @property
    def name(self) -> str:
        """Name of the folder, or of the only file."""
        return self._name

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Scan:
        return self._read(self._paths[index])

    def __iter__(self) -> Iterator[Scan]:
        return map(self._read, self._paths)


def _ending(path: Path) -> str | None:
    return next((end for end in (*READERS, *BAG_ENDINGS, *REFUSED) if path.name.lower().endswith(end)), None)


def open_scans(path: Path, topic: str | None = None) -> ScanSource:
    """Scans of a file, a folder or a bag.

    Args:
        path: what to open.
        topic: PointCloud2 topic of a bag; None takes the only one.
    Raises:
        ValueError: nothing there, nothing readable there, files of several kinds, or a topic for files.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: expected {EXPECTED}, there is no such file or folder")
    if (path / "metadata.yaml").is_file() or (path.is_file() and _ending(path) in BAG_ENDINGS):
        return BagScans(path, topic)
    files = sorted(p for p in path.iterdir() if p.is_file() and _ending(p)) if path.is_dir() else [path]
    ending = _only_ending(path, files)
    if ending in BAG_ENDINGS:
        if len(files) > 1:
            raise ValueError(f"{path}: expected one bag, the folder holds {', '.join(p.name for p in files)}; name one of them")
        return BagScans(files[0], topic)
    if topic is not None:
        raise ValueError(f"{path}: a topic ({topic!r}) is only for bags, these are {ending} files; leave it out")
    name = path.name if path.is_dir() else path.name.removesuffix(ending)
    return FileScans(name, files, READERS[ending])


def _only_ending(path: Path, files: list[Path]) -> str:
    counts: dict[str, int] = {}
    for file in files:
        ending = _ending(file)
        if ending is not None:
            counts[ending] = counts.get(ending, 0) + 1
    if not counts:
        raise ValueError(f"{path}: expected {EXPECTED}, found none of them")
    refusals = [f"{end}: {REFUSED[end]}" for end in counts if end in REFUSED]
    if len(counts) > 1:
        found = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
        message = f"{path}: expected scans of one kind, the folder holds {found}; name one file or move the others"
        raise ValueError("; ".join([message, *refusals]))
    if refusals:
        raise ValueError(f"{path}: expected {EXPECTED}, got {refusals[0]}")
    return next(iter(counts))
