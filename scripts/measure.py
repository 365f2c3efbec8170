#!/usr/bin/env python3
"""What one build of kith costs: size, start, memory, and processor time of writes.

    scripts/measure.py NAME=PROGRAM[,SETTING=VALUE]...

    scripts/measure.py usual=target/release/kith 'tiny=target/release/kith,device_profiles=["tiny"]'

Each is measured in turn, three times, with a fleet of three devices on this machine that have these
settings; a row of medians is printed for each. Needs root.
"""

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time

ROUNDS = 3
STARTS = 40  # of a command that only says its version
WRITES = 4000
CLIENTS = 16
FLEET = "profiles"
FOLDER = f"/var/lib/kith-dev/{FLEET}"
TICKS = os.sysconf("SC_CLK_TCK")


class Socket(http.client.HTTPConnection):
    """A device's API over its socket."""

    def __init__(self, path):
        super().__init__("kith")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


def agents():
    """The pids of the fleet's agents."""
    return [int(open(f"{FOLDER}/d{number}/agent.pid").read().split()[0]) for number in (1, 2, 3)]


def cpu(pid):
    """Seconds of processor time of a process."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid, field):
    """A field of the sums of a process's memory, in KiB."""
    for line in open(f"/proc/{pid}/smaps_rollup"):
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise SystemExit(f"error: /proc/{pid}/smaps_rollup has no {field}")


def write(path, name, first, count, failures):
    connection = Socket(path)
    for number in range(first, first + count):
        body = json.dumps({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": f"{name}-{number}"}, "data": {"value": "x" * 512},
        })
        connection.request("POST", "/api/v1/namespaces/default/configmaps", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 201:
            failures.append(text)
            return


def start_time(program):
    """Milliseconds for a process that only says its version."""
    begun = time.monotonic()
    for _ in range(STARTS):
        subprocess.run([program, "--version"], check=True, stdout=subprocess.DEVNULL)
    return (time.monotonic() - begun) / STARTS * 1000


def disk_writes(pid):
    """Bytes that a process caused to be written to disk."""
    for line in open(f"/proc/{pid}/io"):
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise SystemExit(f"error: /proc/{pid}/io has no write_bytes")


def fleet(program, settings):
    """Seconds until a fleet is ready, its memory idle, writes a second and what they cost."""
    dev = [program, "dev", "--fleet", FLEET]
    subprocess.run([*dev, "down"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    sets = [word for setting in settings for word in ("--set", setting)]
    subprocess.run([*dev, "up", "--devices", "3", *sets], check=True, stdout=subprocess.DEVNULL)
    up = time.monotonic() - begun
    try:
        time.sleep(20)
        pids = agents()
        pss = statistics.mean(memory(pid, "Pss") for pid in pids)
        rss = statistics.mean(memory(pid, "Rss") for pid in pids)
        path = f"{FOLDER}/d1/run/kith.sock"
        failures = []
        before, wrote, begun = sum(map(cpu, pids)), sum(map(disk_writes, pids)), time.monotonic()
        each = WRITES // CLIENTS
        threads = [
            threading.Thread(target=write, args=(path, "w", client * each, each, failures)) for client in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took, used = time.monotonic() - begun, sum(map(cpu, pids)) - before
        if failures:
            raise SystemExit(f"error: a write failed: {failures[0]!r}")
        wrote = sum(map(disk_writes, pids)) - wrote
        after = statistics.mean(memory(pid, "Pss") for pid in pids)
        return up, pss / 1024, rss / 1024, after / 1024, WRITES / took, used / WRITES * 1000, wrote / WRITES / len(pids) / 1024
    finally:
        subprocess.run([*dev, "down"], check=True, stdout=subprocess.DEVNULL)


def main():
    programs = {}
    for word in sys.argv[1:]:
        name, _, rest = word.partition("=")
        program, *settings = rest.split(",")
        programs[name] = (program, settings)
    if not programs or not all(program for program, _ in programs.values()):
        raise SystemExit(__doc__)
    found = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, (program, settings) in programs.items():
            found[name].append((start_time(program), *fleet(program, settings)))
    print("| | file, MB | start, ms | fleet of 3 up, s | PSS idle, MB | RSS idle, MB | PSS after writes, MB | writes/s | CPU ms each, three agents | KiB each, by a device |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, (program, _) in programs.items():
        start, up, pss, rss, after, rate, used, wrote = (statistics.median(column) for column in zip(*found[name]))
        size = os.stat(program).st_size / 1e6
        print(f"| {name} | {size:.1f} | {start:.1f} | {up:.2f} | {pss:.1f} | {rss:.1f} | {after:.1f} | {rate:.0f} | {used:.2f} | {wrote:.1f} |")


main()
