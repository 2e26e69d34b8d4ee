"""All threads of a server share one heap, where the C library leaves the choice."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.support.forebay import ROOT

# Threads that hold some memory each, and glibc's own account of its heaps.
COUNT_HEAPS = """
import ctypes, os, sys, threading
from server.allocator import use_one_heap
if sys.argv[1] == "shared":
    assert use_one_heap()
held, done = [], threading.Barrier(5)
def fill():
    held.append([bytes(2000) for _ in range(200)])
    done.wait()
for _ in range(4):
    threading.Thread(target=fill).start()
done.wait()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
reading, writing = os.pipe()
file = libc.fdopen(writing, b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
print(os.read(reading, 1 << 16).count(b"<heap nr="))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has heaps for threads")
def test_threads_share_the_heap_of_the_process() -> None:
    def heaps(mode: str) -> int:
        command = [sys.executable, "-c", COUNT_HEAPS, mode]
        return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)

    assert heaps("apart") > 1
    assert heaps("shared") == 1
