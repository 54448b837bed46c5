#!/usr/bin/env python3
"""The synchronisation-mutation run: every barrier and every wait is removed in turn, and some test must notice.

Works in a copy of the tracked files. A site is one `__syncthreads`, `__syncwarp`, `cp_async_commit` or `cp_async_wait`
in a kernel file, one wait, record or synchronise call of the CUDA runtime in the host code, or one wait for a copy in
the code that uses backends. Without it, test programs on emulated threads are built and run until one fails: those of
the same file first, then of the same folder, then the others; kernels under race detection, all under several orders
of threads and streams. A site that nothing notices must stand in tests/cuda/survivors.txt with a reason; any other
survivor, and any reason that is no longer needed, fails the run. In the end what noticed something must pass with
every site in place.

Usage: mutate.py [--only TEXT] [--work FOLDER]     TEXT: part of FILE:LINE or of the source line. Takes 15 minutes.
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
CALL = r")\s*\((?:[^()]|\([^()]*\))*\)"
KERNEL_SITES = re.compile(r"\b(__syncthreads|__syncwarp|cp_async_commit|cp_async_wait<[^>]*>" + CALL + r"\s*;")
CUDA_SITES = re.compile(r"\b(cudaStreamSynchronize|cudaEventSynchronize|cudaStreamWaitEvent|cudaEventRecord|"
                        r"cudaDeviceSynchronize" + CALL)
HOST_SITES = re.compile(r"\b(backend_transfer_wait" + CALL)
ORDERS = [("in-order", "eager"), ("in-order", "deferred:1"), ("reverse", "oldest"), ("random:3", "deferred:3"),
          ("priority:1", "deferred:4"), ("priority:2", "deferred:5"), ("priority:3", "youngest")]

# Large products and whole runs: last, in one order only.
LONG = ("cuda_backend_test_matmul", "cuda_cuda_test_training", "cuda_cuda_test_offload", "cuda_cuda_test_fp16",
        "cuda_cuda_test_faults")


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
        if name.startswith("tests/") or not name.endswith((".cu", ".cuh", ".c")):
            continue
        text = (ROOT / name).read_text()
        if not name.endswith(".c"):
            pattern, replacement = KERNEL_SITES, ";"
        elif name.startswith("backend/"):
            pattern, replacement = CUDA_SITES, "cudaSuccess"
        else:
            pattern, replacement = HOST_SITES, "(void)0"
        for m in pattern.finditer(text):
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


def program_names(build):
    """As ninja knows them."""
    listed = run(["ninja", "-C", str(build), "-t", "targets", "all"], build).stdout
    names = set(re.findall(r"^tests/((?:cuda|race)_[a-z]+_test_\w+):", listed, re.M))
    return sorted(n for n in names if not n.startswith("cuda_e2e_"))


def distance(name, site):
    """0: a test of the same file, 1: of the same folder, 2: another. What a header holds is everybody's."""
    parts = name.split("_test_")
    short, where = parts[1], parts[0].split("_", 1)[1]
    folder, stem = site.path.split("/")[0], pathlib.PurePath(site.path).stem
    if where == folder and (stem.startswith(short) or short.startswith(stem)):
        return 0
    return 1 if where == folder or site.path.endswith(".cuh") else 2


def trials(names, site):
    """Programs with the order of threads and streams to run them in, the most likely to notice first."""
    found = []
    for far in range(3):
        near = [n for n in names if distance(n, site) == far and n not in LONG]
        if not site.path.endswith(".c"):  # race detection watches kernels
            found += [(n, "in-order", "eager") for n in near if n.startswith("race_")]
        found += [(n, order, streams) for order, streams in ORDERS for n in near if n.startswith("cuda_")]
    return found + [(n, *ORDERS[1]) for n in LONG]


def passes(trial, build, copy):
    """Whether the program can be built and runs without a complaint."""
    name, order, streams = trial
    if run(["ninja", "-C", str(build), name], copy, timeout=1800).returncode != 0:
        sys.exit(f"{name} cannot be built")
    environment = dict(os.environ, QLORA_CUDA_EMULATED="1", GOMP_SPINCOUNT="2000", TSAN_OPTIONS="halt_on_error=1",
                       QLORA_CUDA_ORDER=order, QLORA_CUDA_STREAMS=streams)
    return run(["setarch", "-R", str(build / "tests" / name)], copy / "tests", environment).returncode == 0


def words(trial):
    name, order, streams = trial
    return f"{name} (race detection)" if name.startswith("race_") else f"{name} ({order}, streams {streams})"


def copy_files(files, copy):
    for name in files:
        target = copy / name
        if target.exists() and target.read_bytes() == (ROOT / name).read_bytes():
            continue  # an old work folder: nothing to build again
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--work", default="")
    options = parser.parse_args()
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = list(filter(None, listed.split("\n")))
    sites = [s for s in find_sites(files) if options.only in str(s)]
    work = pathlib.Path(options.work or tempfile.mkdtemp(prefix="qlora-mutate-"))
    copy, build = work / "source", work / "build"
    copy_files(files, copy)
    print(f"{len(sites)} sites; working in {work}", flush=True)
    configured = run(["cmake", "-G", "Ninja", "-S", str(copy), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release",
                      "-DCMAKE_C_FLAGS_RELEASE=-O2 -w", "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -w", "-DQLORA_CUDA=ON",
                      "-DQLORA_CUDA_ARCHITECTURES=80-real"], work)
    if configured.returncode:
        print(configured.stdout[-4000:])
        return 1
    names = program_names(build)
    known, survived, unexplained, witnesses, started = read_survivors(), set(), [], set(), time.time()
    for index, site in enumerate(sites, 1):
        path = copy / site.path
        text = path.read_text()
        path.write_text(text[:site.start] + site.replacement + text[site.end:])
        witness = next((t for t in trials(names, site) if not passes(t, build, copy)), None)
        path.write_text(text)
        place = f"{site.path}: {site.source}"
        if witness:
            witnesses.add(witness)
        else:
            survived.add(place)
            if place not in known:
                unexplained.append(site)
        verdict = f"noticed by {words(witness)}" if witness else f"SURVIVES: {known.get(place, 'no reason given')}"
        print(f"[{index}/{len(sites)}, {time.time() - started:.0f} s] {site}\n    {verdict}", flush=True)
    false_alarms = [t for t in sorted(witnesses) if not passes(t, build, copy)]
    for trial in false_alarms:
        print(f"fails with every site in place: {words(trial)}")
    stale = [p for p in known if p not in survived] if not options.only else []
    for place in stale:
        print(f"tests/cuda/survivors.txt explains what a test notices: {place}")
    print(f"{len(sites)} sites, {len(survived)} survive, {len(unexplained)} without a reason; {len(witnesses)} ways to "
          f"notice, {len(false_alarms)} of them false")
    if not options.work:
        shutil.rmtree(work)
    return 1 if unexplained or stale or false_alarms else 0


if __name__ == "__main__":
    sys.exit(main())
