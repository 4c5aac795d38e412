"""Rendering by a chat template, which is a program that came with the model, with a limit on its time."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ibpo.errors import IbpoError

MAX_SECONDS = 10.0
"""Of CPU time for one prompt, which takes milliseconds."""

_ENDLESS: set[str] = set()
"""Templates that have not come to an end once; they are not tried again."""


class EndlessTemplate(IbpoError):
    """A chat template that does not come to an end."""


class _OutOfTime(BaseException):
    """No `except Exception` on the way catches it."""


def apply_template(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
    """`tokenizer.apply_chat_template`, which must end within `MAX_SECONDS`.

    Jinja's sandbox keeps a template from the machine and not from looping; so its loop is interrupted from outside.
    Not limited is the memory that it takes until then.

    Args:
        tokenizer: one of transformers.
        messages: of the chat.
        **options: of `apply_chat_template`, those of the template among them.

    Raises:
        EndlessTemplate: it took longer.
        Exception: what the template or transformers refuse, in their words.
    """
    template = str(getattr(tokenizer, "chat_template", ""))
    try:
        if template in _ENDLESS:
            raise _OutOfTime
        with _limited(MAX_SECONDS):
            return tokenizer.apply_chat_template(list(messages), **options)
    except _OutOfTime:
        _ENDLESS.add(template)
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        raise EndlessTemplate(
            f"{name}: the chat template has not come to an end after {MAX_SECONDS:g} CPU seconds with one prompt: it "
            "loops for ever; fix it (chat_template.jinja or tokenizer_config.json), or take another tokenizer"
        ) from None


def _limited(seconds: float) -> Any:
    is_main = threading.current_thread() is threading.main_thread()
    return _by_signal(seconds) if is_main and hasattr(signal, "setitimer") else _by_watcher(seconds)


@contextmanager
def _by_signal(seconds: float) -> Iterator[None]:
    """The process's own clock strikes: this interrupts long sums, too, and is nearly free."""

    def strike(signum: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    handler = signal.signal(signal.SIGVTALRM, strike)
    # Again and again: one may be lost where no exception can be raised.
    before = signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, *before)
        signal.signal(signal.SIGVTALRM, handler)


@contextmanager
def _by_watcher(seconds: float) -> Iterator[None]:
    """In another thread than the main one, where Python takes no signals: a second thread raises in this one."""
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    thread, lock, is_over = threading.get_ident(), threading.Lock(), threading.Event()
    clock = time.pthread_getcpuclockid(thread) if hasattr(time, "pthread_getcpuclockid") else time.CLOCK_MONOTONIC
    end = time.clock_gettime(clock) + seconds

    def watch() -> None:
        while not is_over.wait(seconds / 4):
            with lock:
                if not is_over.is_set() and time.clock_gettime(clock) > end:
                    raise_in(ctypes.c_ulong(thread), ctypes.py_object(_OutOfTime))

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        with lock:
            is_over.set()
            raise_in(ctypes.c_ulong(thread), None)  # one that has not arrived yet
