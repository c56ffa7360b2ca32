# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The `copilot4d` command: train, ablate, evaluate, encode, decode, and those of `cli_*.py`. Dispatch only.

What goes in: arguments. What comes out: files, a table, and the exit code: 0 done, 2 refused (one line on stderr says
why), 130 interrupted. Unusual: what a subcommand needs is imported when it runs, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from copilot4d_core.cli_bench import add_bench_command
from copilot4d_core.cli_card import add_card_command
from copilot4d_core.cli_deploy import add_deploy_commands
from copilot4d_core.cli_model import add_model_arguments, open_chosen_runner, open_chosen_runners
from copilot4d_core.cli_sensor import add_sensor_command
from copilot4d_core.cli_view import add_view_command

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
    _add_ablate(commands.add_parser("ablate", help="train and judge the settings that are in question, and write a table"))
    _add_evaluate(commands.add_parser("evaluate", help="measure the reconstruction of scans"))
    _add_encode(commands.add_parser("encode", help="turn one scan into a token file"))
    _add_decode(commands.add_parser("decode", help="turn a token file into a point cloud and a depth picture"))
    _add_finish(commands.add_parser("finish", help="finish recordings of the node token_recorder that was killed"))
    add_card_command(commands)
    add_view_command(commands)
    add_sensor_command(commands)
    add_bench_command(commands)
    add_deploy_commands(commands)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", type=Path, required=True, metavar="PATH", help="folders, files, downloads or bags")
    parser.add_argument("--out", type=Path, metavar="RUN", help="folder of the run (default: runs/NAME, where NAME is that of the first PATH)")
    parser.add_argument("--preset", metavar="NAME", help="paper, mini or tiny (default: mini, or what --config names)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with settings that differ from the preset")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps in place of the preset's")
    parser.add_argument("--simulate", type=int, default=0, metavar="PERCENT", help="share of simulated scans (default 0)")
    parser.add_argument("--simulate-sensors", nargs="+", default=[], metavar="NAME", help="sensors that are simulated: hdl64, hdl32, vlp16 or "
                        "os1_64 (default: each drive draws one)")
    parser.add_argument("--topic", help="PointCloud2 topic, in every bag among the data")
    parser.add_argument("--sensor", metavar="NAME", help="which recorded --data: a sensor, such as hdl64e, or the path of a "
                        "sensor file (default: found scan by scan)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that read scans (default 1); the result is the same")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights or checkpoint to start from, with a schedule of its own")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out; start where there is none yet")
    parser.add_argument("--precision", default="fp32", metavar="NAME", help="of the Swin trunks: fp32 or bf16 (default fp32)")
    parser.set_defaults(run=_train)


def _add_ablate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", type=Path, required=True, metavar="PATH", help="scans to train on: folders, files or bags")
    parser.add_argument("--judge", nargs="+", type=Path, required=True, metavar="PATH", help="scans to judge on; nothing is trained on them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the runs; one that holds some goes on with them")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="steps of each run (default 400)")
    parser.add_argument("--preset", default="mini", metavar="NAME", help="paper, mini or tiny (default mini)")
    parser.add_argument("--only", nargs="+", default=[], metavar="RUN", help="make these runs only; several processes can share --out so")
    parser.set_defaults(run=_ablate)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", type=Path, required=True, metavar="PATH", help="data sets: folders, files, downloads or bags")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the results")
    parser.add_argument("--rate-distortion", type=Path, metavar="PICTURE", help="picture (.png) of Chamfer distance and F-score over bytes, beside "
                        "an octree and Draco; its numbers go to a .csv of the same name")
    parser.add_argument("--sensor", metavar="NAME", help="whose beams are all rendered, to count phantom and missed points, and along which a "
                        "receiver looks: a sensor, such as hdl64e, or the path of a sensor file (default: fitted to each data set)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth scan of each data set (default 1: all)")
    parser.add_argument("--topic", help="PointCloud2 topic of the bags")
    add_model_arguments(parser, several=True)
    parser.set_defaults(run=_evaluate)


def _add_encode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="one scan: KITTI .bin, nuScenes .pcd.bin, .pcd or Argoverse 2 .feather")
    parser.add_argument("--out", type=Path, required=True, metavar="TOKENS", help="token file to write, such as tokens.npz")
    add_model_arguments(parser)
    parser.set_defaults(run=_encode)


def _add_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="TOKENS", help="token file of `copilot4d encode`")
    parser.add_argument("--out", type=Path, metavar="CLOUD", help="point cloud to write (binary .pcd)")
    parser.add_argument("--depth", type=Path, metavar="PICTURE", help="depth picture to write (.png)")
    parser.add_argument("--returns", action="store_true", help="write up to two returns of each ray into the cloud, with their weights")
    parser.add_argument("--sensor-rows", type=int, default=64, metavar="N", help="beams of the sensor (default 64)")
    parser.add_argument("--sensor-columns", type=int, default=1024, metavar="N", help="rays of one turn (default 1024)")
    parser.add_argument("--sensor-elevation-min-deg", type=float, default=-24.8, metavar="DEG", help="lowest (default -24.8)")
    parser.add_argument("--sensor-elevation-max-deg", type=float, default=2.0, metavar="DEG", help="highest (default 2.0)")
    add_model_arguments(parser)
    parser.set_defaults(run=_decode)


def _add_finish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recordings (.mcap); finished ones are left as they are")
    parser.set_defaults(run=_finish)


def _finish(parsed: argparse.Namespace) -> None:
    from copilot4d_core.data.recording import finish

    for file in parsed.files:
        _check_exists(file, "a recording of the node token_recorder")
        print(f"{file}: {finish(file)} messages")


def _train(parsed: argparse.Namespace) -> None:
    if not 0 <= parsed.simulate <= 100:
        raise ValueError(f"--simulate: expected a share of 0 to 100 percent, got {parsed.simulate}")
    if parsed.precision not in ("fp32", "bf16"):
        raise ValueError(f"--precision: expected fp32 or bf16, got {parsed.precision!r}")
    config = training_config(parsed.preset, parsed.config, parsed.steps)
    for path in parsed.data:
        _check_exists(path, "scans to train on")
    from copilot4d_core.data.sensor_file import sensor_file

    sensor = None if parsed.sensor is None else sensor_file(parsed.sensor)
    from copilot4d_core.training.train import train

    out = parsed.out or Path("runs") / parsed.data[0].absolute().stem
    train(config, parsed.data, out, resume=parsed.resume, topic=parsed.topic, simulate=parsed.simulate,
          simulate_sensors=parsed.simulate_sensors, start=parsed.start, workers=parsed.workers, bf16=parsed.precision == "bf16", sensor=sensor)
    print(f"{out / 'weights.safetensors'}: {config.training.steps} steps")


def _ablate(parsed: argparse.Namespace) -> None:
    for path in parsed.data:
        _check_exists(path, "scans to train on")
    from copilot4d_core.training.ablation import Plan, ablate

    ablate(Plan(parsed.preset, parsed.steps, parsed.data, parsed.judge, parsed.out), only=parsed.only)
    print(f"{parsed.out / 'ablation.md'}: the table; {parsed.out / 'ablation.json'}: all metrics")


def training_config(name: str | None, file: Path | None, steps: int | None) -> Config:
    from copilot4d_core.config import preset
    from copilot4d_core.config_file import config_from_yaml
    from copilot4d_core.yaml_file import read_yaml_text

    if file is None:
        config = preset(name or "mini")
    else:
        _check_exists(file, "a YAML file of settings")
        text = read_yaml_text(file)
        try:
            config = config_from_yaml(_with_preset(text, name))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    if steps is None:
        return config
    if steps < 1:
        raise ValueError(f"--steps: expected at least 1, got {steps}")
    return dataclasses.replace(config, training=dataclasses.replace(config.training, steps=steps))


def _with_preset(text: str, name: str | None) -> str:
    import yaml

    from copilot4d_core.yaml_file import load_yaml

    if name is None:
        return text
    tree = load_yaml(text)
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        return text  # the reader of settings says what is wrong
    if tree.setdefault("preset", name) != name:
        raise ValueError(f"--preset says {name}, the file says preset {tree['preset']}; leave one out")
    return str(yaml.safe_dump(tree))


def _evaluate(parsed: argparse.Namespace) -> None:
    from copilot4d_core.atomic_file import check_writable
    from copilot4d_core.evaluation.report import open_data_sets, print_report, report, write_report

    if parsed.json is None and parsed.rate_distortion is None:
        raise ValueError("evaluate: expected --json OUT, --rate-distortion PICTURE or both, got neither")
    if parsed.json is not None:
        check_writable(parsed.json)
    sensor = _sensor(parsed)
    data_sets = open_data_sets(parsed.data, parsed.topic, parsed.every)
    with contextlib.ExitStack() as stack:
        runners = [stack.enter_context(runner) for runner in open_chosen_runners(parsed)]
        if parsed.json is not None:
            if len(runners) > 1:
                raise ValueError(f"--json: expected one model, got {len(runners)}; leave --json out, or name one of them")
            results = report(runners[0], data_sets, runners[0].model_id, sensor)
            write_report(results, parsed.json)
            print_report(results)
        if parsed.rate_distortion is not None:
            from copilot4d_core.evaluation.rate_report import rate_distortion

            rate_distortion(runners, data_sets, sensor, parsed.rate_distortion)


def _sensor(parsed: argparse.Namespace) -> Any:
    """The sensor's pattern, or None; looks at what --rate-distortion needs before anything is loaded."""
    from copilot4d_core.data.sensor_file import sensor_file

    if parsed.rate_distortion is not None:
        from copilot4d_core.atomic_file import check_writable
        from copilot4d_core.evaluation.draco_codec import check_draco

        check_writable(parsed.rate_distortion, ".png")
        check_draco()
    return None if parsed.sensor is None else sensor_file(parsed.sensor)


def _encode(parsed: argparse.Namespace) -> None:
    from copilot4d_core.atomic_file import check_writable
    from copilot4d_core.evaluation.scan_files import encode_scan, read_scan

    check_writable(parsed.out, ".npz")
    scan = read_scan(parsed.file)
    with open_chosen_runner(parsed) as runner:
        print(encode_scan(runner, scan, parsed.out))


def _decode(parsed: argparse.Namespace) -> None:
    from copilot4d_core.atomic_file import check_writable
    from copilot4d_core.data.sensors import SphericalPattern
    from copilot4d_core.deploy.token_file import load_tokens
    from copilot4d_core.evaluation.scan_files import decode_tokens

    if parsed.returns and parsed.out is None:
        raise ValueError("decode: --returns is for the point cloud; expected --out CLOUD, too")
    if parsed.out is None and parsed.depth is None:
        raise ValueError("decode: expected --out CLOUD, --depth PICTURE or both, got neither")
    for path, ending in ((parsed.out, ".pcd"), (parsed.depth, ".png")):
        if path is not None:
            check_writable(path, ending)
    pattern = SphericalPattern(parsed.sensor_rows, parsed.sensor_columns,
                               parsed.sensor_elevation_min_deg, parsed.sensor_elevation_max_deg)
    _check_exists(parsed.file, "a token file of `copilot4d encode`")
    tokens = load_tokens(parsed.file)
    with open_chosen_runner(parsed) as runner:
        print(decode_tokens(runner, parsed.file, tokens, pattern, cloud=parsed.out, picture=parsed.depth,
                            with_returns=parsed.returns))


def _check_exists(path: Path, expected: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected {expected}, there is no such file or folder")


if __name__ == "__main__":
    sys.exit(main())
