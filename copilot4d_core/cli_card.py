# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d card`: the model card of weights, from what their training and evaluation wrote."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_card_command(commands: Any) -> None:
    """Add the subcommand to those of `copilot4d`."""
    parser = commands.add_parser("card", help="make the model card of weights from their training runs and results")
    parser.add_argument("weights", type=Path, metavar="FILE", help="weights (.safetensors)")
    parser.add_argument("--runs", nargs="+", type=Path, required=True, metavar="RUN", help="folders of the training runs, first to last")
    parser.add_argument("--results", type=Path, required=True, metavar="JSON", help="results of `copilot4d evaluate --json`")
    parser.add_argument("--notes", type=Path, required=True, metavar="YAML", help="licence, terms of the data, limits, text around tables")
    parser.add_argument("--prior-costs", type=Path, metavar="JSON", help="costs of `copilot4d fit-prior --json`")
    parser.add_argument("--surprise", type=Path, metavar="JSON", help="scores of `python -m copilot4d_core.evaluation.surprise_study`")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="card to write (.md)")
    parser.set_defaults(run=_card)


def _card(parsed: argparse.Namespace) -> None:
    from copilot4d_core.atomic_file import check_writable, replacing_file
    from copilot4d_core.evaluation.model_card import Sources, model_card

    check_writable(parsed.out, ".md")
    text = model_card(Sources(parsed.weights, parsed.runs, parsed.results, parsed.notes, parsed.prior_costs, parsed.surprise))
    with replacing_file(parsed.out) as file:
        file.write(text.encode())
    print(f"{parsed.out}: {len(text.splitlines())} lines")
