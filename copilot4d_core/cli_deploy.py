# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The subcommands that bring a model onto a robot: export, build-engine, build-kernels, agreement, fit-prior, doctor. Dispatch only."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_deploy_commands(commands: Any) -> None:
    """Add them to the parser's subcommands."""
    _add_export(commands.add_parser("export", help="turn weights into two ONNX networks, checked against torch"))
    _add_build_engine(commands.add_parser("build-engine", help="build TensorRT engines of an export, on the machine that runs them"))
    _add_build_kernels(commands.add_parser("build-kernels", help="compile the CUDA kernels ahead of time, without a GPU"))
    _add_agreement(commands.add_parser("agreement", help="compare the deployed networks with torch on scans"))
    _add_fit_prior(commands.add_parser("fit-prior", help="fit the prior by which token streams of a model get small"))
    _add_doctor(commands.add_parser("doctor", help="list what this machine has, and which runner it will use"))


def _add_model(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--weights", type=Path, metavar="FILE", help="weights (.safetensors; default: those in the package)")
    which.add_argument("--preset", metavar="NAME", help="random weights of a preset: paper, mini or tiny")


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; an older export there is replaced")
    parser.add_argument("--precision", default="fp32", metavar="NAME", help="of the Swin trunks: fp32 or fp16 (default fp32)")
    parser.set_defaults(run=_export)


def _add_build_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--onnx", type=Path, required=True, metavar="DIR", help="folder of `copilot4d export`")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the engines (default: engines in the export folder)")
    parser.add_argument("--library", default="auto", metavar="NAME", help="auto, tensorrt or tensorrt_rtx (default auto)")
    parser.add_argument("--precision", metavar="NAME", help="refuse an export of another precision; it is chosen by `copilot4d export`")
    parser.add_argument("--workspace-mib", type=int, default=1024, metavar="N", help="memory limit of the build (default 1024)")
    parser.set_defaults(run=_build_engine)


def _add_build_kernels(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--arch", default="75,87,89,90,110,120", metavar="LIST", help="compute capabilities (default 75,87,89,90,110,120)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the cubins")
    parser.set_defaults(run=_build_kernels)


def _add_agreement(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", type=Path, required=True, metavar="PATH", help="data sets: folders, files or bags")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth scan of each data set (default 1: all)")
    parser.add_argument("--topic", help="PointCloud2 topic of the bags")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights (.safetensors; default: those in the package)")
    parser.set_defaults(run=_agreement)


def _add_fit_prior(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", type=Path, required=True, metavar="PATH", help="scans to fit to: folders, files or bags")
    parser.add_argument("--judge", nargs="+", type=Path, default=[], metavar="PATH", help="scans to measure on; nothing is fitted to them")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="prior to write: NAME.prior.safetensors beside NAME.safetensors")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the costs that are printed")
    parser.add_argument("--copies", type=int, default=16, metavar="N", help="turned and shifted copies of every scan (default 16)")
    parser.add_argument("--simulate", type=int, default=0, metavar="N", help="simulated scans beside them (default 0)")
    parser.add_argument("--steps", type=int, default=3000, metavar="N", help="steps of the fit (default 3000)")
    parser.add_argument("--topic", help="PointCloud2 topic of the bags")
    parser.add_argument("--weights", type=Path, metavar="PATH",
                        help="weights (.safetensors) or folder of `copilot4d export` (default: the weights in the package)")
    parser.set_defaults(run=_fit_prior)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_doctor)


def _model(parsed: argparse.Namespace) -> Any:
    from copilot4d_core.config import preset
    from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
    from copilot4d_core.model_file import random_model, read_model

    return random_model(preset(parsed.preset)) if parsed.preset else read_model(parsed.weights or PACKAGED_WEIGHTS)


def _export(parsed: argparse.Namespace) -> None:
    model = _model(parsed)
    from copilot4d_core.deploy.export import export

    check = export(model, parsed.out, parsed.precision, _prior_file(parsed))
    print(f"{parsed.out}: {model.model_id} {parsed.precision}; on a simulated scan {check.token_agreement:.3%} of torch's tokens, "
          f"others within a score gap of {check.closest_difference:.1e}; decoder error {check.decoder_error:.1e}")
    for name, size in check.bytes_by_file.items():
        print(f"  {name}: {size / 1e6:.1f} MB")
    print("  nodes: " + ", ".join(f"{count} {kind}" for kind, count in sorted(check.operators.items())))


def _prior_file(parsed: argparse.Namespace) -> Path | None:
    from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
    from copilot4d_core.deploy.token_prior import prior_path

    path = prior_path(parsed.weights or PACKAGED_WEIGHTS)
    return path if parsed.preset is None and path.is_file() else None


def _build_engine(parsed: argparse.Namespace) -> None:
    from copilot4d_core.deploy.open_tensorrt import build_engines

    for line in build_engines(parsed.onnx, parsed.out, parsed.library, parsed.precision, parsed.workspace_mib):
        print(line)


def _build_kernels(parsed: argparse.Namespace) -> None:
    try:
        architectures = [int(part) for part in parsed.arch.split(",")]
    except ValueError as error:
        raise ValueError(f"--arch: expected numbers such as 87,110, got {parsed.arch!r}") from error
    from copilot4d_core.deploy.kernel_weights import inference_kernels
    from copilot4d_core.kernels.binaries import build_kernels

    build_kernels(inference_kernels(_model(parsed).config), architectures, parsed.out, tell=print)


def _agreement(parsed: argparse.Namespace) -> None:
    from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
    from copilot4d_core.evaluation.agreement import measure, print_agreement
    from copilot4d_core.evaluation.report import open_data_sets
    from copilot4d_core.model_file import read_model

    data_sets = open_data_sets(parsed.data, parsed.topic, parsed.every)
    model = read_model(parsed.weights or PACKAGED_WEIGHTS)
    results = measure(model, data_sets)
    print_agreement(results, model.model_id, sum(len(range(0, len(data_set.source), data_set.every)) for data_set in data_sets))
    missed = [row.name for row in results if not row.is_kept]
    if missed:
        raise ValueError(f"agreement: {', '.join(missed)} missed a bar; do not deploy")


def _fit_prior(parsed: argparse.Namespace) -> None:
    from copilot4d_core.atomic_file import check_writable
    from copilot4d_core.deploy.prior_file import IN_EXPORT
    from copilot4d_core.evaluation.report import open_data_sets
    from copilot4d_core.training.fit_prior import Settings, fit_prior, print_costs, write_costs

    check_writable(parsed.out, IN_EXPORT)
    if parsed.json is not None:
        check_writable(parsed.json)
    settings = Settings(parsed.copies, parsed.simulate, parsed.steps)
    settings.check()
    data_sets = open_data_sets([*parsed.data, *parsed.judge], parsed.topic, every=1)
    from copilot4d_core.deploy.open_runner import open_runner

    with open_runner(parsed.weights, "auto", False, tell=lambda line: print(line, file=sys.stderr)) as runner:
        costs = fit_prior(runner, data_sets[:len(parsed.data)], data_sets[len(parsed.data):], parsed.out, settings)
        print_costs(costs, parsed.out)
        if parsed.json is not None:
            write_costs(costs, runner.model_id, parsed.json)


def _doctor(parsed: argparse.Namespace) -> None:
    from copilot4d_core.deploy.doctor import examine, print_findings
    from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS, Choice, choose_runner

    try:
        choice = choose_runner(PACKAGED_WEIGHTS)
    except ValueError as error:
        choice = Choice("none", str(error))
    findings = examine()
    if parsed.json:
        json.dump({"runner": choice._asdict(), "findings": [finding._asdict() for finding in findings]}, sys.stdout, indent=1)
        print()
    else:
        print_findings(findings, choice.name, choice.reason)
