# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: bad messages in process, bad messages to the live node, and bad files; `--seconds` is shared among them.

Ends with 1 when anything failed. Writes out/trust and the table.
"""

from __future__ import annotations

import argparse
import sys

from trust import fuzz_files, fuzz_messages, fuzz_node
from trust.record import write_record
from trust.table import write_table

MESSAGES, FILES, LIVE = 100_000, 10_000, 2_000
"""Of a full run; what `--seconds` allows of it is tried."""
SHARES = (0.55, 0.3, 0.15)


def main() -> int:
    """Run all three, one after the other."""
    parser = argparse.ArgumentParser(description="generated messages and damaged files against the package")
    parser.add_argument("--seconds", type=float, default=120.0, help="for all of it; a full run takes about 1,500 s on two quiet cores (an estimate)")
    parsed = parser.parse_args()
    command = f"make fuzz TIME={parsed.seconds:.0f}"
    first, second, third = (share * parsed.seconds for share in SHARES)
    records = [fuzz_messages.run(first, MESSAGES, command), fuzz_files.run(second, FILES, command), fuzz_node.run(third, LIVE, command)]
    for record in records:
        write_record(record)
        print(f"{record.area}/{record.name}: {record.tried:,} {record.unit}; {dict(record.failures)}; {record.found}", flush=True)
    write_table()
    return 0 if all(record.passed for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
