#!/usr/bin/env python3
"""The synchronisation-mutation run: every barrier and every wait is removed in turn, and some test must notice.

Works in a copy of the tracked files. A site is one `__syncthreads`, `__syncwarp`, `cp_async_wait` or block-wide helper
in a kernel file, or one wait, record or synchronise call of the CUDA runtime in the host code. For each site the copy
is built without it and the tests on emulated threads run, those of the same file first, under several orders of threads
and streams and under race detection, until one fails. A site that nothing notices must stand in
tests/cuda/survivors.txt with a reason; any other survivor, and any reason that is no longer needed, fails the run.

Usage: mutate.py [--only TEXT] [--work FOLDER]     TEXT: part of FILE:LINE or of the source line. Takes about an hour.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNEL_SITES = re.compile(r"\b(__syncthreads|__syncwarp|cp_async_wait<[^>]*>)\s*\([^()]*\)\s*;")
HOST_SITES = re.compile(
    r"\b(cudaStreamSynchronize|cudaEventSynchronize|cudaStreamWaitEvent|cudaEventRecord|cudaDeviceSynchronize)"
    r"\s*\((?:[^()]|\([^()]*\))*\)")
ORDERS = [("in-order", ""), ("in-order", "deferred:1"), ("reverse", "oldest"), ("random:3", "deferred:3"),
          ("priority:1", "deferred:4"), ("priority:2", "deferred:5"), ("priority:3", "youngest")]

LONG = ("_cuda_test_training", "_cuda_test_fp16", "_cuda_test_faults")  # whole runs: in one order only


class Site:
    def __init__(self, path, start, end, replacement, text):
        self.path, self.start, self.end, self.replacement = path, start, end, replacement
        before = text[:start]
        self.line = before.count("\n") + 1
        self.source = " ".join(text.splitlines()[self.line - 1].split())

    def __str__(self):
        return f"{self.path}:{self.line}: {self.source}"


def find_sites(files):
    sites = []
    for name in files:
        kernel, host = name.endswith((".cu", ".cuh")), name.endswith(".c") and "cuda" in name
        if name.startswith("tests/") or not (kernel or host):
            continue
        text = (ROOT / name).read_text()
        if kernel:
            matches, replacement = KERNEL_SITES.finditer(text), ";"
        else:
            matches, replacement = HOST_SITES.finditer(text), "cudaSuccess"
        for m in matches:
            line = text[text.rfind("\n", 0, m.start()) + 1:m.start()]
            if "define" not in line and not line.lstrip().startswith(("*", "/*", "//")):
                sites.append(Site(name, m.start(), m.end(), replacement, text))
    return sites


def read_survivors():
    """Lines `FILE: source line -> reason`; the source line with its spaces collapsed."""
    known = {}
    path = ROOT / "tests/cuda/survivors.txt"
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.strip() and not line.startswith("#"):
            place, _, reason = line.partition(" -> ")
            known[place.strip()] = reason.strip()
    return known


def run(command, cwd, environment=None, timeout=600):
    try:
        return subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, timeout=timeout,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "timed out")


def programs(build, kind):
    found = sorted(p.name for p in (build / "tests").iterdir() if p.name.startswith(kind + "_") and os.access(p, os.X_OK)
                   and p.is_file())
    found = [p for p in found if "_e2e_" not in p]
    return sorted(found, key=lambda p: p.endswith(LONG))


def by_nearness(names, site):
    """Tests of the same file first, then of the same folder, then the others."""
    folder, stem = site.path.split("/")[0], pathlib.PurePath(site.path).stem

    def distance(name):
        parts = name.split("_test_")
        short, where = parts[1], parts[0].split("_", 1)[1]
        if where == folder and (stem.startswith(short) or short.startswith(stem)):
            return 0
        return 1 if where == folder else 2

    return sorted(names, key=distance)


def noticed_by(copy, build, site):
    """Who notices, or None. A mutant that does not compile is noticed by the compiler."""
    built = run(["ninja", "-C", str(build), "cuda_emulated_tests"], copy)
    if built.returncode != 0:
        return "the compiler"
    environment = dict(os.environ, QLORA_CUDA_EMULATED="1", GOMP_SPINCOUNT="2000")
    tests = by_nearness(programs(build, "cuda"), site)
    races = by_nearness(programs(build, "race"), site)
    first = len(races) if site.path.endswith(".cuh") else 2  # what a header holds is everybody's
    for name in races[:first]:
        result = run(["setarch", "-R", str(build / "tests" / name)], copy / "tests", environment)
        if result.returncode != 0:
            return f"{name} (race detection)"
    for order, streams in ORDERS:
        environment["QLORA_CUDA_ORDER"] = order
        environment["QLORA_CUDA_STREAMS"] = streams or "eager"
        for name in tests:
            if name.endswith(LONG) and streams != ORDERS[1][1]:
                continue
            result = run([str(build / "tests" / name)], copy / "tests", environment)
            if result.returncode != 0:
                return f"{name} ({order}, streams {streams or 'eager'})"
    for name in races[first:]:
        result = run(["setarch", "-R", str(build / "tests" / name)], copy / "tests", environment)
        if result.returncode != 0:
            return f"{name} (race detection)"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--work", default="")
    options = parser.parse_args()
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    sites = [s for s in find_sites([f for f in files if f]) if options.only in str(s)]
    work = pathlib.Path(options.work or tempfile.mkdtemp(prefix="qlora-mutate-"))
    copy, build = work / "source", work / "build"
    for name in filter(None, files):
        target = copy / name
        if target.exists() and target.read_bytes() == (ROOT / name).read_bytes():
            continue  # an old work folder: nothing to build again
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    print(f"{len(sites)} sites; working in {work}", flush=True)
    configured = run(["cmake", "-G", "Ninja", "-S", str(copy), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release",
                      "-DCMAKE_C_FLAGS_RELEASE=-O2", "-DCMAKE_CXX_FLAGS_RELEASE=-O2", "-DQLORA_CUDA=ON",
                      "-DQLORA_CUDA_ARCHITECTURES=80-real"], work)
    ready = run(["ninja", "-C", str(build), "cuda_emulated_tests"], work, timeout=3600)
    if configured.returncode or ready.returncode:
        print(configured.stdout[-2000:], ready.stdout[-4000:])
        return 1
    known, used, unexplained, started = read_survivors(), set(), [], time.time()
    for index, site in enumerate(sites, 1):
        path = copy / site.path
        text = path.read_text()
        path.write_text(text[:site.start] + site.replacement + text[site.end:])
        witness = noticed_by(copy, build, site)
        path.write_text(text)
        place = f"{site.path}: {site.source}"
        if witness is None:
            used.add(place)
            if place not in known:
                unexplained.append(site)
        verdict = f"noticed by {witness}" if witness else f"SURVIVES: {known.get(place, 'no reason given')}"
        print(f"[{index}/{len(sites)}, {time.time() - started:.0f} s] {site}\n    {verdict}", flush=True)
    stale = [p for p in known if p not in used] if not options.only else []
    for place in stale:
        print(f"tests/cuda/survivors.txt explains what a test notices: {place}")
    print(f"{len(sites)} sites, {len(used)} survive, {len(unexplained)} without a reason")
    if not options.work:
        shutil.rmtree(work)
    return 1 if unexplained or stale else 0


if __name__ == "__main__":
    sys.exit(main())
