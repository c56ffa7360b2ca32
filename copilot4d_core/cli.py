"""The `copilot4d` command: train, evaluate, encode, decode, and those of `cli_deploy`. Dispatch only.

What goes in: arguments. What comes out: files, a table, and the exit code: 0 done, 2 refused (one line on stderr says
why), 130 interrupted. Unusual: what a subcommand needs is imported when it runs, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from copilot4d_core.cli_deploy import add_deploy_commands

if TYPE_CHECKING:
    from copilot4d_core.config import Config

REFUSED, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        The exit code of the process.
    """
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except (ValueError, OSError) as error:
        print(f"copilot4d: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("copilot4d: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="copilot4d", description="LiDAR scans to discrete tokens and back to depth.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(commands.add_parser("train", help="train a tokenizer on scans"))
    _add_evaluate(commands.add_parser("evaluate", help="measure the reconstruction of scans"))
    _add_encode(commands.add_parser("encode", help="turn one scan into a token file"))
    _add_decode(commands.add_parser("decode", help="turn a token file into a point cloud and a depth picture"))
    add_deploy_commands(commands)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", type=Path, required=True, metavar="PATH", help="folders, files or bags")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run, such as runs/first")
    parser.add_argument("--preset", metavar="NAME", help="paper, mini or tiny (default: mini, or what --config names)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with settings that differ from the preset")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps in place of the preset's")
    parser.add_argument("--simulate", type=int, default=0, metavar="PERCENT", help="share of simulated scans (default 0)")
    parser.add_argument("--topic", help="PointCloud2 topic of the bags")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights or checkpoint to start from, with a schedule of its own")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.set_defaults(run=_train)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", type=Path, required=True, metavar="PATH", help="data sets: folders, files or bags")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="file for the results")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth scan of each data set (default 1: all)")
    parser.add_argument("--topic", help="PointCloud2 topic of the bags")
    _add_weights(parser)
    parser.set_defaults(run=_evaluate)


def _add_encode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="one scan: KITTI .bin, nuScenes .pcd.bin or .pcd")
    parser.add_argument("--out", type=Path, required=True, metavar="TOKENS", help="token file to write, such as tokens.npz")
    _add_weights(parser)
    parser.set_defaults(run=_encode)


def _add_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="TOKENS", help="token file of `copilot4d encode`")
    parser.add_argument("--out", type=Path, metavar="CLOUD", help="point cloud to write (binary .pcd)")
    parser.add_argument("--depth", type=Path, metavar="PICTURE", help="depth picture to write (.png)")
    parser.add_argument("--sensor-rows", type=int, default=64, metavar="N", help="beams of the sensor (default 64)")
    parser.add_argument("--sensor-columns", type=int, default=1024, metavar="N", help="rays of one turn (default 1024)")
    parser.add_argument("--sensor-elevation-min-deg", type=float, default=-24.8, metavar="DEG", help="lowest (default -24.8)")
    parser.add_argument("--sensor-elevation-max-deg", type=float, default=2.0, metavar="DEG", help="highest (default 2.0)")
    _add_weights(parser)
    parser.set_defaults(run=_decode)


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, metavar="PATH",
                        help="weights (.safetensors) or folder of `copilot4d export` (default: the weights in the package)")
    parser.add_argument("--runner", default="auto", metavar="NAME", help="auto, torch, onnx or tensorrt (default auto)")
    parser.add_argument("--int8", action="store_true", help="eight-bit layers in ONNX Runtime")


def _open_runner(parsed: argparse.Namespace) -> Any:
    from copilot4d_core.deploy.open_runner import open_runner

    return open_runner(parsed.weights, parsed.runner, parsed.int8, tell=lambda line: print(line, file=sys.stderr))


def _train(parsed: argparse.Namespace) -> None:
    if not 0 <= parsed.simulate <= 100:
        raise ValueError(f"--simulate: expected a share of 0 to 100 percent, got {parsed.simulate}")
    config = _training_config(parsed.preset, parsed.config, parsed.steps)
    for path in parsed.data:
        _check_exists(path, "scans to train on")
    from copilot4d_core.training.train import train

    train(config, parsed.data, parsed.out, resume=parsed.resume, topic=parsed.topic, simulate=parsed.simulate, start=parsed.start)


def _training_config(name: str | None, file: Path | None, steps: int | None) -> Config:
    from copilot4d_core.config import config_from_yaml, preset

    if file is None:
        config = preset(name or "mini")
    else:
        _check_exists(file, "a YAML file of settings")
        try:
            config = config_from_yaml(_with_preset(file.read_text(encoding="utf-8"), name))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    if steps is None:
        return config
    if steps < 1:
        raise ValueError(f"--steps: expected at least 1, got {steps}")
    return dataclasses.replace(config, training=dataclasses.replace(config.training, steps=steps))


def _with_preset(text: str, name: str | None) -> str:
    import yaml

    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # the strict reader says what is wrong
    tree = {} if tree is None else tree
    if name is None or not isinstance(tree, dict):
        return text
    if tree.setdefault("preset", name) != name:
        raise ValueError(f"--preset says {name}, the file says preset {tree['preset']}; leave one out")
    return str(yaml.safe_dump(tree))


def _evaluate(parsed: argparse.Namespace) -> None:
    from copilot4d_core.atomic_file import check_writable
    from copilot4d_core.evaluation.report import open_data_sets, print_report, report, write_report

    check_writable(parsed.json)
    data_sets = open_data_sets(parsed.data, parsed.topic, parsed.every)
    with _open_runner(parsed) as runner:
        results = report(runner, data_sets, runner.model_id)
    write_report(results, parsed.json)
    print_report(results)


def _encode(parsed: argparse.Namespace) -> None:
    from copilot4d_core.atomic_file import check_writable
    from copilot4d_core.evaluation.scan_files import encode_scan, read_scan

    check_writable(parsed.out, ".npz")
    scan = read_scan(parsed.file)
    with _open_runner(parsed) as runner:
        print(encode_scan(runner, scan, parsed.out))


def _decode(parsed: argparse.Namespace) -> None:
    from copilot4d_core.atomic_file import check_writable
    from copilot4d_core.data.sensors import SphericalPattern
    from copilot4d_core.deploy.token_file import load_tokens
    from copilot4d_core.evaluation.scan_files import decode_tokens

    if parsed.out is None and parsed.depth is None:
        raise ValueError("decode: expected --out CLOUD, --depth PICTURE or both, got neither")
    for path, ending in ((parsed.out, ".pcd"), (parsed.depth, ".png")):
        if path is not None:
            check_writable(path, ending)
    pattern = SphericalPattern(parsed.sensor_rows, parsed.sensor_columns,
                               parsed.sensor_elevation_min_deg, parsed.sensor_elevation_max_deg)
    _check_exists(parsed.file, "a token file of `copilot4d encode`")
    tokens = load_tokens(parsed.file)
    with _open_runner(parsed) as runner:
        print(decode_tokens(runner, parsed.file, tokens, pattern, cloud=parsed.out, picture=parsed.depth))


def _check_exists(path: Path, expected: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected {expected}, there is no such file or folder")


if __name__ == "__main__":
    sys.exit(main())
