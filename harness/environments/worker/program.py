"""The worker: runs metric jobs inside a metric environment and answers in JSON lines. Standard library only.

Started as `PYTHON -I -u program.py READ WRITE BEAT MEMORY`: two inherited pipe descriptors, the seconds between
heartbeats, and a limit on address space in bytes (0 for none). Messages are one JSON object a line. The parent sends:

    {"op": "setup", "id": 1, "job": NAME, "file": PATH, "options": {}, "weights": FOLDER, "device": "cpu"}
    {"op": "score", "id": 2, "job": NAME, "clip": {"path": …, "prompt": …, …}}
    {"op": "stop"}

The worker answers `hello` (protocol, Python, installed versions) once. Then it answers each id by `ready`, `result`
(values, samples, seconds) or `error` (type, message, traceback). It sends a `beat` (resident and peak bytes) meanwhile.

Nothing else uses these pipes. What a package prints to standard output goes to the log, and is never an answer.

A job is a Python file that defines

    setup(options: dict, weights: str, device: str) -> state
    score(state, clip: Clip) -> {name: float or list of floats}     a float is a value, a list the samples behind it
    close(state)                                                    may be left out

Its folder is on the import path, after the environment's packages.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import threading
import time
import traceback
from typing import Any

PROTOCOL = 1
TRACEBACK_CHARACTERS = 20_000


class Clip:
    """A clip as a job sees it: the fields of `harness.contracts.Clip`, and `shared`.

    Attributes:
        path: the video file, a string.
        prompt, seed, index, frames, height, width, frame_rate, digest: as in `harness.contracts.Clip`.
        switches: later prompts as [pixel frame, text].
        reference: the clip that it is held against, or None.
        shared: a dictionary that every job scoring this same clip in turn sees, for decoded frames and features.
    """

    def __init__(self, fields: dict[str, Any], shared: dict[Any, Any]) -> None:
        self.path: str = fields["path"]
        self.prompt: str = fields["prompt"]
        self.seed: int = fields["seed"]
        self.index: int = fields["index"]
        self.frames: int = fields["frames"]
        self.height: int = fields["height"]
        self.width: int = fields["width"]
        self.frame_rate: float = fields["frame_rate"]
        self.digest: str = fields["digest"]
        self.switches: list[list[Any]] = fields.get("switches", [])
        self.reference = Clip(fields["reference"], {}) if "reference" in fields else None
        self.shared = shared


class Worker:
    """The jobs that are set up, and the pipe to the parent."""

    def __init__(self, write: int) -> None:
        self.write = write
        self.lock = threading.Lock()
        self.modules: dict[str, Any] = {}
        self.states: dict[str, tuple[Any, Any]] = {}
        self.shared_key = ""
        self.shared: dict[Any, Any] = {}

    def say(self, **message: Any) -> None:
        """Write one line. Ends the process where the parent is gone."""
        data = json.dumps(message).encode() + b"\n"
        with self.lock:
            try:
                while data:
                    data = data[os.write(self.write, data) :]
            except OSError:
                os._exit(1)  # sys.exit would end only the thread of the heartbeats

    def handle(self, message: dict[str, Any]) -> None:
        """Carry out one message and answer it; an exception becomes an `error`."""
        try:
            if message["op"] == "setup":
                self.setup(message)
            elif message["op"] == "score":
                self.score(message)
            else:
                raise ValueError(f"unknown op {message['op']!r}")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a job may raise anything, SystemExit included
            trace = traceback.format_exc()[-TRACEBACK_CHARACTERS:]
            self.say(op="error", id=message.get("id"), type=type(error).__name__, message=str(error), traceback=trace)

    def setup(self, message: dict[str, Any]) -> None:
        """Import the job's file, once, and make its state."""
        file = message["file"]
        if file not in self.modules:
            folder = os.path.dirname(file)
            if folder not in sys.path:
                sys.path.append(folder)
            name = f"job_{len(self.modules)}_{os.path.splitext(os.path.basename(file))[0]}"
            spec = importlib.util.spec_from_file_location(name, file)
            if spec is None or spec.loader is None:
                raise ImportError(f"{file} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
            self.modules[file] = module
        module = self.modules[file]
        state = module.setup(message["options"], message["weights"], message["device"])
        self.states[message["job"]] = (module, state)
        self.say(op="ready", id=message["id"])

    def score(self, message: dict[str, Any]) -> None:
        """Score one clip by one job."""
        fields = message["clip"]
        # One clip's frames and features at a time: those of several would fill the memory.
        key = json.dumps([fields["path"], fields["digest"]])
        if key != self.shared_key:
            self.shared_key, self.shared = key, {}
        module, state = self.states[message["job"]]
        began = time.monotonic()
        values, samples = values_and_samples(module.score(state, Clip(fields, self.shared)))
        seconds = time.monotonic() - began
        self.say(op="result", id=message["id"], values=values, samples=samples, seconds=seconds)

    def close(self) -> None:
        """Let every job clean up."""
        for module, state in self.states.values():
            if hasattr(module, "close"):
                module.close(state)


def values_and_samples(scores: dict[str, Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """A job's answer as values (its numbers) and samples (its lists); raises `TypeError` for anything else."""
    if not isinstance(scores, dict):
        raise TypeError(f"score() gave {type(scores).__name__}, not a dictionary")
    values, samples = {}, {}
    for name, score in scores.items():
        if isinstance(score, (list, tuple)):
            samples[str(name)] = [float(item) for item in score]
        else:
            values[str(name)] = float(score)
    return values, samples


def memory() -> dict[str, int]:
    """Resident and peak bytes of this process, from /proc; on macOS the peak alone."""
    if sys.platform == "darwin":
        import resource

        # In bytes there. On Linux it is the parent's peak until this process has a higher one, hence /proc below.
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    usage = {}
    with (
        contextlib.suppress(OSError, ValueError),
        open("/proc/self/status", encoding="ascii", errors="replace") as file,
    ):
        for line in file:
            key, _, rest = line.partition(":")
            if key in ("VmRSS", "VmHWM"):
                usage["resident" if key == "VmRSS" else "peak"] = int(rest.split()[0]) * 1024
    return usage


def beat(worker: Worker, seconds: float) -> None:
    """Send heartbeats for ever."""
    while True:
        time.sleep(seconds)
        worker.say(op="beat", **memory())


def limit_memory(limit: int) -> None:
    """Limit the address space to `limit` bytes: then an allocation fails, and not the machine."""
    if limit:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def offer_to_the_killer() -> None:
    """Have the system end this process when memory runs out, and not its parent, which records why."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")


def main(arguments: list[str]) -> None:
    """Serve the parent until it sends `stop` or closes its pipe."""
    read_descriptor, write_descriptor = int(arguments[0]), int(arguments[1])
    # What packages start must not hold the pipes: the parent would then not see that this process died.
    for descriptor in (read_descriptor, write_descriptor):
        os.set_inheritable(descriptor, False)
    limit_memory(int(arguments[3]))
    offer_to_the_killer()
    worker = Worker(write_descriptor)
    versions = {item.metadata["Name"]: item.version for item in importlib.metadata.distributions()}
    versions.pop(None, None)  # type: ignore[call-overload]
    worker.say(op="hello", protocol=PROTOCOL, pid=os.getpid(), python=sys.version.split()[0], versions=versions)
    threading.Thread(target=beat, args=(worker, float(arguments[2])), daemon=True).start()
    with os.fdopen(read_descriptor, encoding="utf-8") as lines:
        for line in lines:
            message = json.loads(line)
            if message["op"] == "stop":
                break
            worker.handle(message)
    worker.close()


if __name__ == "__main__":
    main(sys.argv[1:])
