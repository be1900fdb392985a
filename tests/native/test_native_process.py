"""What a process gives up by prctl, seen from outside."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_no_new_privs() -> None:
    script = """
from pathlib import Path
from als.native.process import set_no_new_privs
def state():
    return next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("NoNewPrivs"))
before = state()
set_no_new_privs()
print(before, state())
"""
    assert python(script) == "0 1\n"


@pytest.mark.usefixtures("as_root")
def test_dumpable_decides_who_owns_the_proc_files() -> None:
    script = """
import os
from als.native.process import set_dumpable
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
set_dumpable(True)
before = os.stat("/proc/self/stat").st_uid
set_dumpable(False)
print(before, os.stat("/proc/self/stat").st_uid)
"""
    assert python(script) == "65534 0\n"


def test_parent_death_signal() -> None:
    """The grandchild holds the write end of our pipe; it reaches its end only when the grandchild is dead."""
    script = """
import signal, subprocess, sys
child = '''
import signal, sys
from als.native.process import set_parent_death_signal
set_parent_death_signal(signal.SIGKILL)
print("ready", flush=True)
signal.pause()
'''
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, stderr=sys.stdout)
assert process.stdout.readline() == b"ready\\n"
print(process.pid, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60, check=True)
    assert int(done.stdout) > 1


def test_an_extension_that_was_not_built_says_so() -> None:
    script = """
import sys
sys.modules["als._kernel"] = None
try:
    import als.native.files
except ImportError as error:
    print(error)
"""
    output = python(script)
    assert "als._kernel is not built" in output
    assert "pip install -e ." in output
