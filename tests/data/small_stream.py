"""A program of the process adapter's tests: flat grey chunks, with a fault where its options ask for one."""

import os
import signal
import subprocess
import sys
import time

import harness_stream


def load(device, options):
    options["weights"] = os.urandom(options.get("weight_bytes", 0))
    if "virtual" in options:
        harness_stream.time.perf_counter_ns = lambda: now[0]
    if options.get("load") == "fails":
        raise OSError("no weights in model.pt")
    if options.get("load") == "sleeps":
        print("loading slowly", flush=True)
        time.sleep(600)
    return options


now = [0]


def wait(model, seconds):
    now[0] += round(seconds * 1e9)
    if "virtual" in model:
        with open(model["virtual"], "wb") as file:
            file.write(now[0].to_bytes(8, "little"))
    elif seconds > 0:
        time.sleep(seconds)


def grey(request, index, count, prompts):
    values = [(7 * len(prompt) + 30 * seed + index) % 200 for prompt, seed in zip(prompts, request.seeds)]  # noqa: B905 - Python 3.8
    size = count * request.height * request.width * 3
    pixels = b"".join(bytes([value]) * size for value in values)
    return memoryview(pixels).cast("B", (request.batch, count, request.height, request.width, 3))


def stream(model, request, span):
    prompts, switches = request.prompts, list(request.switches)
    delays = model.get("delays", {})
    with span("text"):
        wait(model, delays.get("text", 0))
    done = index = 0
    if request.prefixes:
        prompts = [prompt + "p" * prefix[0, 0, 0, 0] for prompt, prefix in zip(prompts, request.prefixes)]  # noqa: B905
    while done < request.frames:
        count = min(model.get("chunk", 3), request.frames - done)
        if switches and done >= switches[0][0]:
            with span("switch"):
                prompts = switches.pop(0)[1]
                wait(model, delays.get("switch", 0))
        with span(f"chunk[{index}].denoise"):
            wait(model, delays.get("denoise", 0))
            room = os.urandom(model.get("request_bytes", 0))
        with span(f"decode[{index}]"):
            wait(model, delays.get("decode", 0))
        chunk = grey(request, index, count, prompts)
        if index == model.get("at", 1) and model.get("fault") and not os.path.exists(model.get("once", "")):
            if "once" in model:
                open(model["once"], "w").close()
            chunk = FAULTS[model["fault"]](chunk, span)
        yield chunk
        del room
        done, index = done + count, index + 1


def flood(chunk, span):
    for _ in range(20000):
        print("noise " * 40)
    return chunk


def flood_for_ever(chunk, span):
    while True:
        print("noise " * 40)


def sleep(chunk, span):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open("pids", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    print("waiting", flush=True)
    time.sleep(600)


def fails(chunk, span):
    print("working")
    raise ValueError("no such block")


def junk(chunk, span, text=b'{"op": "chunk", "number": 1}'):
    os.write(harness_stream._link.answers, harness_stream.LENGTH.pack(len(text)) + text)
    time.sleep(600)


def leave_open(chunk, span):
    span.open += 1
    return chunk


def shortened(chunk, span):
    told(1, chunk.nbytes, *chunk.shape, room=80)


def told(number, size, *shape, room=None):
    link = harness_stream._link
    link.pixels[: harness_stream.HEADER.size] = harness_stream.HEADER.pack(b"harness1", number, size, *shape)
    if room is not None:
        os.ftruncate(link.memory, room)
    link.send(op="chunk", number=number, open=0)
    time.sleep(600)


FAULTS = {
    "fails": fails,
    "exit": lambda chunk, span: sys.exit("no GPU"),
    "exits": lambda chunk, span: os._exit(3),
    "killed": lambda chunk, span: os.kill(os.getpid(), signal.SIGKILL),
    "sleep": sleep,
    "flood": flood,
    "floods": flood_for_ever,
    "none": lambda chunk, span: None,
    "signed": lambda chunk, span: chunk.cast("B").cast("b", chunk.shape),
    "flat": lambda chunk, span: chunk.cast("B"),
    "large": lambda chunk, span: memoryview(bytes(99 * chunk.nbytes)).cast("B", (99, *chunk.shape[1:])),
    "wide": lambda chunk, span: chunk.cast("B").cast("B", (*chunk.shape[:2], 2 * chunk.shape[2], 4, 3)),
    "silence": lambda chunk, span: time.sleep(600),
    "stopped": lambda chunk, span: os.kill(os.getpid(), signal.SIGSTOP),
    "junk": lambda chunk, span: junk(chunk, span, b"\xff{"),
    "repeated": junk,
    "long": lambda chunk, span: os.write(harness_stream._link.answers, b"\xff" * 4) and time.sleep(600),
    "unasked": lambda chunk, span: junk(chunk, span, b'{"op": "ready"}'),
    "stages": lambda chunk, span: junk(chunk, span, b'{"op": "done", "spans": [["text", NaN, 0, 0]]}'),
    "open": leave_open,
    "shortened": shortened,
    "header": lambda chunk, span: told(1, 2**63, 2**63, 1, 1, 1, 1),
}

if __name__ == "__main__":
    print("started", flush=True)
    harness_stream.serve(load, stream)
