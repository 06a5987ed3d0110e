"""An interrupt finds what cannot stand one not begun or done."""

from __future__ import annotations

import signal
import threading

import pytest

from tracer import compiled, interrupts


def test_an_interrupt_waits_until_the_block_has_ended():
    done = []

    def work():
        with interrupts.held_back():
            with interrupts.held_back():
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_without_a_handler_is_left_alone():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.held_back():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_of_the_block_gives_the_handlers_back():
    with pytest.raises(ValueError, match="broken"), interrupts.held_back():
        raise ValueError("broken")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_thread_holds_nothing_back():
    found = []

    def work():
        with interrupts.held_back():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


def test_a_kernel_is_loaded_or_compiled_whole(monkeypatch):
    came = []

    class Interrupted(compiled._QuickCache):
        def load_overload(self, sig, target_context):
            signal.raise_signal(signal.SIGINT)
            came.append("load")

        def save_overload(self, sig, data):
            signal.raise_signal(signal.SIGINT)
            came.append("save")

    monkeypatch.setattr(compiled, "_QuickCache", Interrupted)

    @compiled.compiled
    def kernel(x):
        return x + 1

    with pytest.raises(KeyboardInterrupt):
        kernel(1)
    assert came == ["load", "save"]
    assert kernel(1) == 2
    assert came == ["load", "save"]
