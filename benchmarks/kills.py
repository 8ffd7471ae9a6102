"""Kills conversions at random moments and holds what the resumed runs end with against one
undisturbed run: the network's file, the report, the picture, and what is left on the disk.

A kill is SIGKILL, SIGTERM or Ctrl-C, by turns. Several kills in a row befall one run before it may
end. Prints one line for each kill and a verdict; exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

import convert
from convert.storage import container

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
WORDS = """--model resnet8_digits --data digits --calibration digits --calibration-size 256
--batch-size 32 --steps 4 3 --by-site 64"""
# PyTorch makes this one folder for each user, and leaves it there.
OF_TORCH = "torchinductor_"


def started(words: list[str], out: Path, kept: Path | None, temporary: Path) -> subprocess.Popen:
    """A run of scripts/convert.py in a session of its own."""
    # What a shell starts in the background ignores Ctrl-C, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resume = [] if kept is None else ["--resume", str(kept)]
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "convert.py", *words, "--output", out, *resume],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)},
    )


def found(out: Path) -> dict[str, Any]:
    """What a run ended with, less its seconds; a fingerprint for each file."""
    report = json.loads((out / "report.json").read_text())
    del report["seconds"]
    (network,) = out.glob("*.fsnn")
    return {
        "report.json": json.dumps(report),
        network.name: network_in(network),
        "steps.png": hashlib.sha256((out / "steps.png").read_bytes()).hexdigest(),
        "files": sorted(path.name for path in out.iterdir()),
    }


def network_in(file: Path) -> str:
    """A fingerprint of a network's file without the seconds of its report."""
    graph, content = container.read(file)
    document = json.loads(graph)
    del document["report"]["seconds"]
    state = hashlib.sha256(json.dumps(document).encode())
    for name, tensor in sorted(safetensors.torch.load(content).items()):
        state.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        state.update(tensor.numpy().tobytes())
    return state.hexdigest()


def left(session: int) -> list[str]:
    """Processes of a session that still run, a little after its end."""
    for _ in range(20):
        alive = [pid for pid in os.listdir("/proc") if pid.isdigit() and _session(pid) == session]
        if not alive:
            return []
        time.sleep(0.5)
    return alive


def _session(pid: str) -> int | None:
    try:
        state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return None
    return None if state == "Z" else int(session)


def wrong_after(
    number: signal.Signals,
    run: subprocess.Popen,
    error: str,
    out: Path,
    kept: Path,
    temporary: Path,
) -> list[str]:
    """What is wrong after a kill; nothing, if it is as it should be."""
    said = [line for line in error.splitlines() if line.startswith("stopped by")]
    hidden = [path for folder in (out, kept) for path in folder.glob(".*")]
    # Before it takes the folders, a run leaves what one that was killed left there.
    halves = [
        path.name
        for path in hidden
        if path.name not in (".lock", ".running") or f"process {run.pid} " in path.read_text()
    ]
    wrong = []
    if number == signal.SIGKILL:
        expected = -number
    else:
        expected = 128 + number
        if len(said) != 1 or "Traceback" in error:
            wrong.append(f"no one line on stderr: {error[-300:]!r}")
        if halves:
            wrong.append(f"left: {halves}")
    if run.returncode != expected:
        wrong.append(f"exit code {run.returncode}, not {expected}")
    if alive := left(run.pid):
        wrong.append(f"processes {alive} still run")
    for file in out.glob("*.fsnn"):
        convert.load(file)
    for file in out.glob("*.json"):
        json.loads(file.read_text())
    return wrong + of_temporary(temporary)


def of_temporary(folder: Path) -> list[str]:
    """What lies in the temporary folder, beside PyTorch's own."""
    names = [path.name for path in folder.iterdir() if not path.name.startswith(OF_TORCH)]
    return [f"in the temporary folder: {names}"] if names else []


@dataclass
class Folders:
    """Where one run works.

    Args:
        out, kept: results and stages.
        temporary: in place of the system's.
    """

    out: Path
    kept: Path
    temporary: Path


def killed(words: list[str], at: Folders, number: signal.Signals, moment: float) -> str | None:
    """Kills a run and says how that went, "" if well; None for a run that had ended before."""
    run = started(words, at.out, at.kept, at.temporary)
    try:
        run.wait(moment)
    except subprocess.TimeoutExpired:
        run.send_signal(number)
    _, error = run.communicate()
    if not run.returncode:
        return None
    return "; ".join(wrong_after(number, run, error, at.out, at.kept, at.temporary))


def resumed(words: list[str], at: Folders, whole: dict[str, Any]) -> str:
    """Lets a run end and says what is wrong with it, "" for nothing."""
    run = started(words, at.out, at.kept, at.temporary)
    _, error = run.communicate()
    if run.returncode:
        return f"exit code {run.returncode}: {error[-300:]}"
    ended = found(at.out)
    wrong = [f"{key} differs" for key in whole if ended[key] != whole[key]]
    wrong += [f"left: {path.name}" for path in at.kept.iterdir() if path.name.startswith(".")]
    return "; ".join(wrong + of_temporary(at.temporary))


def undisturbed(words: list[str], folder: Path, temporary: Path) -> tuple[dict[str, Any], float]:
    """What a run ends with that nobody kills, and its seconds; one before it compiles."""
    for name in ("first", "whole"):
        begin = time.monotonic()
        run = started(words, folder / name, None, temporary)
        _, error = run.communicate()
        if run.returncode:
            raise SystemExit(error)
    return found(folder / "whole"), time.monotonic() - begin


def main() -> int:
    """Runs, kills, resumes and compares."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=30)
    options.add_argument("--row", type=int, default=3, help="kills that befall one run")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("words", nargs="*", help="options of scripts/convert.py, behind --")
    chosen = options.parse_args()
    words = chosen.words or WORDS.split()
    draw, faults, done, runs = random.Random(chosen.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder, temporary = Path(name), Path(name) / "temporary"
        temporary.mkdir()
        whole, seconds = undisturbed(words, folder, temporary)
        print(f"undisturbed: {seconds:.1f} s", flush=True)
        while done < chosen.kills:
            runs += 1
            at = Folders(folder / f"out {runs}", folder / f"kept {runs}", temporary)
            for _ in range(min(chosen.row, chosen.kills - done)):
                number, moment = SIGNALS[done % 3], draw.uniform(0.5, seconds)
                wrong = killed(words, at, number, moment)
                if wrong is None:
                    break
                done += 1
                stages = len(list(at.kept.glob("*.stage")))
                told = f"{done}: {number.name} after {moment:.1f} s, {stages} stages kept"
                print(f"{told}; {wrong or 'good'}", flush=True)
                faults += bool(wrong)
            wrong = resumed(words, at, whole)
            print(f"   resumed: {wrong or 'the same network, report and picture'}", flush=True)
            faults += bool(wrong)
    print(f"{done} kills of {runs} runs, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
