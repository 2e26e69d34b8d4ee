#!/usr/bin/env python3
"""Miss ratios of the eviction policies on request traces, beside published references.

    python bench/hitratio.py                                    every policy, every trace, 0.1 / 1 / 10 % of the keys
    python bench/hitratio.py --policies lru,s3-fifo --trace oltp --trace mine.ctr.xz
    python bench/hitratio.py --bytes --trace p12_ext            capacity in bytes, objects weigh their size
    python bench/hitratio.py --limit 1000000 --trace orm_night  the first million requests

Runs in process: a dictionary of nodes and a Policy, driven in the order in which the keyspace drives them (a hit
counts in the node or calls touched; a miss evicts until the newcomer fits, then adds it). Traces are read with the
`ctr.py` that lies beside them; text traces, one key and optionally a size per line, work too.
"""

import argparse
import importlib.util
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from eviction.policy import Node, Policy  # noqa: E402 - runs from a checkout, uninstalled
from eviction.registry import POLICIES, create  # noqa: E402

# Misses in % by libCacheSim 0.3.5, equal number of objects, from the README of the development traces.
REFERENCE_COLUMNS = ("fifo", "random", "lru", "lfu", "sieve", "s3-fifo", "2q", "arc", "lirs", "w-tinylfu", "belady")
REFERENCES: dict[tuple[str, int], tuple[float | None, ...]] = {
    ("web12", 14): (83.3, 84.7, 83.1, 91.8, 84.2, None, 85.1, 83.1, 86.3, None, 65.8),
    ("web12", 138): (62.3, 64.8, 60.2, 78.2, 59.7, 59.0, 58.3, 59.2, 64.2, 64.8, 41.5),
    ("web12", 1376): (35.5, 36.4, 31.5, 39.8, 28.3, 27.9, 28.5, 29.1, 29.8, 29.4, 20.0),
    ("orm_night", 86): (55.7, 61.1, 55.3, 96.2, 68.9, 68.7, 65.7, 55.2, 71.7, None, 45.5),
    ("orm_night", 865): (34.4, 37.1, 33.8, 89.7, 38.2, 35.4, 33.9, 33.5, 40.4, 47.3, 25.6),
    ("orm_night", 8647): (9.8, 10.2, 6.5, 29.1, 6.3, 5.9, 5.8, 6.4, 6.5, 7.0, 4.0),
    ("oltp", 187): (87.1, 89.1, 86.2, 95.2, 90.9, 82.2, 82.2, 82.4, 85.3, 81.0, 65.0),
    ("oltp", 1869): (63.4, 64.4, 58.4, 82.3, 59.7, 53.5, 54.1, 54.6, 58.4, 59.7, 40.2),
    ("oltp", 18688): (36.7, 38.2, 33.5, 55.4, 33.3, 32.3, 32.3, 32.7, 34.3, 36.2, 23.8),
    ("p12_ext", 129): (98.7, 98.8, 98.7, 99.3, 98.6, 98.4, 98.6, 98.3, 99.1, 98.9, 95.1),
    ("p12_ext", 1287): (97.6, 96.6, 97.6, 95.8, 94.6, 88.6, 90.0, 90.4, 90.3, 90.0, 78.7),
    ("p12_ext", 12874): (65.6, 66.7, 60.5, 63.0, 61.5, 51.9, 55.5, 52.5, 51.4, 54.3, 36.2),
}
BYTE_REFERENCE_COLUMNS = ("fifo", "lru", "s3-fifo", "arc", "w-tinylfu", "gdsf", "belady")
BYTE_REFERENCES: dict[tuple[str, int], tuple[float | None, ...]] = {
    ("p12_ext", 2553271): (98.7, 98.7, 98.4, 97.4, 93.1, 95.0, 92.7),
    ("p12_ext", 25532708): (95.3, 95.3, 81.5, 82.8, 77.4, 74.3, 67.5),
    ("p12_ext", 255327078): (52.4, 47.0, 40.4, 39.8, 38.6, 32.5, 26.8),
}
DEFAULT = "s3-fifo"
ALLOWED = 0.5  # points over min(LRU, S3-FIFO) that the default policy may miss
CHUNK = 50_000  # requests between two looks at the terminal


def never_pinned(node: Node) -> bool:
    return False


class Progress:
    """One overwritten line on a terminal; silent elsewhere."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()
        self.started = time.monotonic()

    def show(self, text: str) -> None:
        if self.shown:
            elapsed_s = time.monotonic() - self.started
            sys.stderr.write(f"\r\x1b[K{elapsed_s:6.0f} s  {text}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Trace:
    """Requests as an index into `names`, and optionally the size of each requested object."""

    def __init__(self, name: str, keys: Sequence[int], sizes: Sequence[int] | None) -> None:
        self.name = name
        self.keys = keys
        self.sizes = sizes
        self.names = [b"key:%d" % i for i in range(max(keys, default=-1) + 1)]

    def footprint(self, in_bytes: bool) -> int:
        if not in_bytes:
            return len(set(self.keys))
        assert self.sizes is not None
        first: dict[int, int] = {}
        for key, size in zip(self.keys, self.sizes, strict=True):
            first.setdefault(key, size)
        return sum(first.values())


def run(policy: Policy, trace: Trace, capacity: int, in_bytes: bool, progress: Progress, label: str) -> float:
    """Misses in % of one policy on one trace."""
    policy.set_capacity(capacity)
    entries: dict[bytes, Node] = {}
    lookup = entries.get
    names = trace.names
    hit_cap = policy.hit_cap
    needs_touch = policy.needs_touch
    misses = 0
    total = len(trace.keys)
    sizes = trace.sizes if in_bytes else None
    for start in range(0, total, CHUNK):
        progress.show(f"{label} {100 * start // total} %")
        for i in range(start, min(start + CHUNK, total)):
            key = names[trace.keys[i]]
            node = lookup(key)
            if node is not None:
                if needs_touch:
                    policy.touched(node)
                elif node.freq < hit_cap:
                    node.freq += 1
                continue
            misses += 1
            weight = 1 if sizes is None else sizes[i]
            if weight > capacity:
                continue
            while policy.weight + weight > capacity:
                victim = policy.victim(never_pinned)
                if victim is None:
                    raise RuntimeError(f"{policy.name} proposes nobody at {policy.weight} of {capacity}")
                del entries[victim.key]
            node = Node(key, weight)
            entries[key] = node
            policy.added(node)
    return 100 * misses / total if total else 0.0


def load_reader(directory: Path) -> ModuleType:
    """The ctr module that lies beside the traces."""
    path = directory / "ctr.py"
    spec = importlib.util.spec_from_file_location("ctr", path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"no trace reader at {path}; say where the traces are with --traces DIR")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def capacities(trace: Trace, fractions: Sequence[float], in_bytes: bool) -> list[tuple[float, int]]:
    """Capacities of a trace; a published one within 1 % (or 1 object) is taken instead, to compare like with like."""
    footprint = trace.footprint(in_bytes)
    published = [c for name, c in (BYTE_REFERENCES if in_bytes else REFERENCES) if name == trace.name]
    found = []
    for fraction in fractions:
        wanted = max(1, round(footprint * fraction))
        near = [c for c in published if abs(c - wanted) <= max(1, wanted // 100)]
        found.append((fraction, near[0] if near else wanted))
    return found


def reference_of(trace: str, capacity: int, in_bytes: bool) -> dict[str, float]:
    columns = BYTE_REFERENCE_COLUMNS if in_bytes else REFERENCE_COLUMNS
    row = (BYTE_REFERENCES if in_bytes else REFERENCES).get((trace, capacity), ())
    return {name: value for name, value in zip(columns, row, strict=False) if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=ROOT.parent / "shared" / "traces", metavar="DIR")
    parser.add_argument("--trace", action="append", metavar="NAME", help="a trace in DIR or a path; repeatable")
    parser.add_argument("--policies", default=",".join(p for p in POLICIES if p not in ("noeviction", "ttl")))
    parser.add_argument("--fractions", default="0.001,0.01,0.1", help="capacities as parts of the keys (or bytes)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="the first N requests only")
    parser.add_argument("--bytes", action="store_true", help="capacity in bytes; needs a trace with sizes")
    parser.add_argument("--seed", type=int, default=1, help="for the random policy")
    args = parser.parse_args()

    reader = load_reader(args.traces)
    policies = args.policies.split(",")
    fractions = [float(f) for f in args.fractions.split(",")]
    wanted = args.trace or (["p12_ext"] if args.bytes else ["web12", "oltp", "p12_ext", "orm_night"])
    progress = Progress()
    columns = " ".join(f"{p:>16}" for p in policies)
    print("misses in %, ours / reference (libCacheSim 0.3.5 where published)\n")
    print(f"{'trace':<12} {'capacity':>18}  {columns}  {DEFAULT} to min(LRU, S3)")
    judged = kept = 0
    for given in wanted:
        path = Path(reader.resolve(given, [str(args.traces)]))
        name = path.name.split(".")[0]
        progress.show(f"loading {name}")
        keys, sizes = reader.load(str(path), args.limit)
        if args.bytes and sizes is None:
            raise SystemExit(f"{name} has no sizes; leave out --bytes")
        trace = Trace(name, keys, sizes)
        for fraction, capacity in capacities(trace, fractions, args.bytes):
            references = {} if args.limit else reference_of(name, capacity, args.bytes)
            cells = []
            ours: dict[str, float] = {}
            for policy_name in policies:
                policy = create(policy_name, random.Random(args.seed))
                label = f"{name} {capacity} {policy_name}"
                ours[policy_name] = run(policy, trace, capacity, args.bytes, progress, label)
                reference = references.get(policy_name)
                cells.append(f"{ours[policy_name]:7.2f} / {'–' if reference is None else f'{reference:.1f}':>6}")
            progress.clear()
            bars = [references[p] if p in references else ours.get(p, 100.0) for p in ("lru", "s3-fifo")]
            verdict = ""
            if DEFAULT in ours:
                distance = ours[DEFAULT] - min(bars)
                judged += 1
                kept += distance <= ALLOWED
                verdict = f"{distance:+6.2f}{'' if distance <= ALLOWED else '  over'}"
            row = f"{name:<12} {capacity:>10} ({100 * fraction:4.1f}%)  " + " ".join(cells) + f"  {verdict}"
            print(row, flush=True)
    if judged:
        print(f"\n{DEFAULT}: {kept} of {judged} rows within {ALLOWED} point of min(LRU, S3-FIFO)")


if __name__ == "__main__":
    main()
