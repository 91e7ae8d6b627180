"""The C allocator keeps blocks of the size of groups: they cost no page faults again and again."""

import platform
import subprocess
import sys

import pytest

from online_synclr.stream.memory import keep_large_blocks

GROUP_BYTES = 786_432
CREDITS = 16
ROUNDS = 20
COUNT_FAULTS = f"""
import ctypes, resource, threading
from online_synclr.stream.memory import keep_large_blocks

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def turn_over():
    # As many at a time as there are credits: freed together, glibc would give them back.
    for _ in range({ROUNDS}):
        blocks = [libc.malloc({GROUP_BYTES}) for _ in range({CREDITS})]
        for block in blocks:
            ctypes.memset(block, 1, {GROUP_BYTES})
        for block in blocks:
            libc.free(block)

def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(turn_over), int(keep_large_blocks()), faults(turn_over))
"""


def test_blocks_of_a_groups_size_are_kept() -> None:
    if platform.libc_ver()[0] != "glibc":
        assert keep_large_blocks() in (False, True)
        pytest.skip("only glibc has this setting")
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True
    )
    before, kept, after = map(int, done.stdout.split())
    assert kept == 1
    pages_a_round = CREDITS * GROUP_BYTES // 4096
    assert before > (ROUNDS - 2) * pages_a_round, "else there is nothing to mend"
    assert after < 2 * pages_a_round


TURN_OVER_A_POOL = f"""
import ctypes, random, threading, psutil
from online_synclr.stream.memory import keep_large_blocks

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
keep_large_blocks()
before = psutil.Process().memory_info().rss
draw = random.Random(0)
pool = []

def receive(num_groups):
    # JPEG groups: no two of one size.
    for _ in range(num_groups):
        size = draw.randint({GROUP_BYTES} // 8, {GROUP_BYTES} // 2)
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        pool.append((block, size))

def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def turn_over():
    receive(200)
    for _ in range(200):
        receive(16)
        draw.shuffle(pool)
        leaving = [pool.pop()[0] for _ in range(16)]
        in_thread(lambda: [libc.free(block) for block in leaving])

in_thread(turn_over)
print(sum(size for _, size in pool), psutil.Process().memory_info().rss - before)
"""


def test_memory_does_not_grow_as_a_pool_turns_over() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TURN_OVER_A_POOL], capture_output=True, text=True, check=True
    )
    held, resident = map(int, done.stdout.split())
    assert resident < 1.5 * held


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_large_blocks() is False
