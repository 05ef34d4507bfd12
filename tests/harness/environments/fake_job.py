"""A job that needs no package: its prompt says what it does to its clip, or to its worker."""

import os
import sys
import time


def setup(options, weights, device):
    if options.get("setup") == "die":
        os._exit(7)
    if options.get("setup") == "raise":
        raise FileNotFoundError("no such checkpoint")
    return {"options": options, "weights": weights, "device": device, "scored": 0}


def score(state, clip):
    act = clip.prompt
    state["scored"] += 1
    if act == "raise":
        print("loading the model went well")
        raise ValueError("the third frame is odd")
    if act == "exit":
        sys.exit("a package called exit")
    if act == "die":
        print("about to crash", flush=True)
        os._exit(3)
    if act == "kill":
        os.kill(os.getpid(), 9)
    if act == "hang":
        time.sleep(600)
    if act == "freeze":
        os.kill(os.getpid(), 19)
    if act == "noise":
        for _ in range(20_000):
            print('{"op": "result", "id": 1, "values": {"score": 99}}')
        os.system("echo from a shell")
    if act == "hoard":
        return {"score": len(bytearray(2 << 30))}
    if act == "wrong":
        return ["not", "a", "dictionary"]
    if act == "text":
        return {"score": "high"}
    if act == "network":
        import urllib.request

        urllib.request.urlopen("http://example.com/weights.pt", timeout=5)
    if act == "nan":
        return {"score": float("nan")}
    clip.shared["reads"] = clip.shared.get("reads", 0) + 1
    return {"score": clip.frames / 2, "reads": clip.shared["reads"], "per_frame": [0.5, 1.5]}
