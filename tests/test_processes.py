"""MLX in a process that forks, and in one that ends while a thread is at work."""

import subprocess
import sys

START = """
import atexit, os, threading, time
from mlx_diffusion import PrefixStore, generate, load, stream_generate
from mlx_diffusion.errors import ForkError
from mlx_diffusion.processes import foreign_work

model, tokenizer = load("demo")
messages = [{"role": "user", "content": "Sort: fig oak ant"}]
"""
FORK = """
words = tokenizer.encode("fig")
inside, go_on = threading.Event(), threading.Event()

def stay():
    with foreign_work():
        inside.set()
        go_on.wait()

threading.Thread(target=stay).start()
inside.wait()
child = os.fork()
if not child:
    save = PrefixStore(model, 10**9).save
    for work in (lambda: generate(model, tokenizer, messages), lambda: load("demo"), lambda: save("never")):
        try:
            work()
        except ForkError as error:
            print("spawn" in str(error), flush=True)
    print(tokenizer.encode("fig") == words, flush=True)  # which needs no MLX
    began = time.monotonic()
    atexit._run_exitfuncs()
    print(time.monotonic() - began < 30, flush=True)
    os._exit(0)
os.waitpid(child, 0)
go_on.set()
"""
THREADS = """
begun, done = threading.Event(), threading.Event()

def write_for_ever():
    while True:
        for event in stream_generate(model, tokenizer, messages):
            begun.set()

def write_once():  # and then wait for something else
    generate(model, tokenizer, messages)
    done.set()
    threading.Event().wait()

for work in (write_once, write_for_ever, write_for_ever):
    threading.Thread(target=work, daemon=True).start()
begun.wait()
done.wait()
"""
JOINED = """
import threading
import mlx.core as mx
from mlx_diffusion.processes import computing

def compute():
    with computing():
        x = mx.random.normal((128, 128))
        for _ in range(100):
            x = x @ x
        mx.eval(x)

for _ in range(2):
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
"""


def ended(script: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_a_fork_is_told_to_be_spawned_and_waits_for_no_thread_that_is_not_in_it() -> None:
    assert ended(START + FORK) == (0, "True\n" * 5, "")


def test_daemon_threads_are_stopped_at_the_end() -> None:
    assert ended(START + THREADS) == (0, "", "")


def test_threads_that_have_just_been_joined_are_gone_before_the_interpreter() -> None:
    assert {ended(JOINED) for _ in range(6)} == {(0, "", "")}
