"""A program that runs beside the kit: a line goes in, a line comes out, and whatever happens it is gone in the end.

Neither what it writes nor how long it takes is left to the program: a line has a largest length, an answer a time
limit, and of its standard error only the end is kept.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from adalora_ref.conformance.protocol import ProtocolError
from adalora_ref.conformance.untrusted import printable, shown

LONGEST = 2**20
"""Bytes of a line that a program may answer."""

KEPT = 4096
"""Bytes of its standard error that are kept."""

GRACE = 1.0
"""Seconds in which a program may end by itself, and again after it was asked to."""

CHUNK = 2**16

SIGNALS = {int(number): number.name for number in signal.Signals}


class Conversation:
    """A program that was started, in a process group of its own.

    Parameters
    ----------
    command
        The program and its arguments.
    seconds
        The time limit of an answer.

    Raises
    ------
    ProtocolError
        If it cannot be started.
    """

    def __init__(self, command: Sequence[str], *, seconds: float) -> None:
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(  # noqa: S603  the user's own program, without a shell
                command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ProtocolError(f"the program {shown(command[0])} cannot be started: {why}") from None
        self.seconds = seconds
        self._heard, self._said, self._unsent = bytearray(), bytearray(), b""
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._streams = [stream for stream in pipes if stream is not None]
        self._input, self._output, self._error = (stream.fileno() for stream in self._streams)
        os.set_blocking(self._input, False)
        self._open = selectors.DefaultSelector()
        for stream in (self._output, self._error):
            self._open.register(stream, selectors.EVENT_READ)

    def ask(self, line: bytes, about: str) -> bytes:
        """Write *line* and return the next one that comes back; *about* says in messages what was asked.

        Raises
        ------
        ProtocolError
            If the program ends, takes too long, writes a line without end, or has spoken before it was asked.
        """
        if self._heard:
            raise ProtocolError(f"the program spoke before it was asked for {about}: {_quoted(self._heard)}")
        self._unsent = line
        self._open.register(self._input, selectors.EVENT_WRITE)
        deadline = time.monotonic() + self.seconds
        while self._unsent or b"\n" not in self._heard:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ProtocolError(f"the program took longer than {self.seconds:g} s for {about} and was ended")
            quiet = not self._exchange(min(left, 0.2))
            answered = b"\n" in self._heard
            if len(self._heard) > LONGEST and not answered:
                raise ProtocolError(f"the program answered {about} with a line of more than {LONGEST} bytes")
            if not answered and (self._closed() or (quiet and self._process.poll() is not None)):
                raise ProtocolError(self._last_words(about))
        answer, _, rest = self._heard.partition(b"\n")
        self._heard = rest
        return bytes(answer)

    def end(self) -> None:
        """Close the program's standard input; terminate what has not ended then, and kill whatever is left."""
        self._open.close()
        try:
            self._streams[0].close()
            if not self._ended(GRACE):
                self._signal(signal.SIGTERM)
                self._ended(GRACE)
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()
            for stream in self._streams:
                stream.close()

    def _exchange(self, seconds: float) -> bool:
        """Write and read what is ready within so many seconds, once; whether there was anything."""
        ready = self._open.select(seconds)
        for stream in [key.fd for key, _ in ready]:
            if stream == self._input:
                self._send()
            elif not (data := os.read(stream, CHUNK)):
                self._open.unregister(stream)
            elif stream == self._output:
                self._heard += data
            else:
                self._said = (self._said + data)[-KEPT:]
        return bool(ready)

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._input, self._unsent) :]
        except BrokenPipeError:  # it reads no more; whether it has ended is seen on its output
            self._unsent = b""
        if not self._unsent:
            self._open.unregister(self._input)

    def _closed(self) -> bool:
        return self._output not in self._open.get_map()

    def _last_words(self, about: str) -> str:
        """How the program ended, and the last lines of its standard error."""
        until = time.monotonic() + GRACE
        while self._error in self._open.get_map() and time.monotonic() < until:
            self._exchange(0.05)
        if not self._ended(GRACE):
            return f"the program closed its standard output before it answered {about}"
        status = self._process.returncode
        how = f"with exit status {status}" if status >= 0 else f"by {SIGNALS.get(-status, f'signal {-status}')}"
        lines = [line.strip() for line in self._said.decode("utf-8", "replace").splitlines() if line.strip()][-3:]
        error = " | ".join(printable(line, 200) for line in lines)
        return f"the program ended {how} before it answered {about}; " + (
            f"its standard error ends: {error}" if lines else "it wrote nothing to its standard error"
        )

    def _ended(self, seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the program and to what it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _quoted(said: bytearray) -> str:
    return repr(printable(bytes(said[:200]).decode("utf-8", "replace"), 80))
