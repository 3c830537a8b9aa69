"""A lease's owner is known to be gone, known to live, or not known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from slicewise.worker.queue import owner

_NAME = """
import sys
from slicewise.worker.queue import owner
print(owner.here(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", _NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.name = process.stdout.readline().strip()
    yield process
    process.kill()
    process.communicate()


def test_this_process_lives():
    assert owner.abandoned([owner.here()]) == []
    assert owner.here() == owner.here()


def test_a_killed_process_is_gone(child):
    assert owner.abandoned([child.name, owner.here()]) == []
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert owner.abandoned([child.name, owner.here()]) == [child.name]


def test_a_zombie_is_gone(child):
    """Dead but not yet waited for: it has its number still, and will never write again."""
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert os.path.exists(f"/proc/{child.pid}")  # noqa: PTH110
    assert owner.abandoned([child.name]) == [child.name]


def test_a_stopped_process_lives(child):
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert owner.abandoned([child.name]) == []


def test_a_number_that_was_given_again_is_another_process(child):
    where, _, started = child.name.rpartition("|")
    assert owner.abandoned([f"{where}|{int(started) - 1}"]) == [f"{where}|{int(started) - 1}"]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_of_another_host_boot_or_container_nothing_is_known(child, part):
    child.send_signal(signal.SIGKILL)
    child.wait()
    words = child.name.split("|")
    words[part] = "another"
    assert owner.abandoned(["|".join(words)]) == []


@pytest.mark.parametrize("name", ["", "x", "worker 1", "||||"])
def test_a_name_of_another_kind_is_not_known(name):
    assert owner.abandoned([name]) == []


def test_a_name_fits_its_column():
    assert len(owner.here()) <= 128
