"""A TCP relay that delays and loses, and that can be told to misbehave: the far end of a shaped link.

`python relay.py LISTEN_HOST PORT TO_HOST PORT`; commands come as JSON lines on standard input: {"delay": 0.01, "loss": 0.02,
"mode": "pass"}. Modes: pass, drop (bytes vanish), hang (requests arrive, answers do not), 503, garbage, refuse. A lost packet
costs its bytes one retransmission timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys

TIMEOUT_SECONDS = 0.2  # TCP's least retransmission timeout on Linux
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nRetry-After: 1\r\n\r\n{}"
GARBAGE = bytes(range(256)) * 4


class Relay:
    def __init__(self, to: tuple[str, int]) -> None:
        self.to, self.delay, self.loss, self.mode = to, 0.0, 0.0, "pass"
        self.random = random.Random(0)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "refuse":
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection(*self.to)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(self.pump(reader, there_writer, writer, True), self.pump(there_reader, writer, writer, False))

    async def pump(self, reader, writer, client, up: bool) -> None:  # type: ignore[no-untyped-def]
        """Bytes in order, each chunk `delay` later than it came."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            loop = asyncio.get_running_loop()
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    with contextlib.suppress(OSError, RuntimeError):
                        writer.close()
                    return
                with contextlib.suppress(OSError, RuntimeError):
                    writer.write(data)

        task = asyncio.create_task(deliver())
        loop, last = asyncio.get_running_loop(), 0.0
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.mode == "refuse":
                    client.transport.abort()
                    break
                if self.mode == "drop" or (self.mode == "hang" and not up):
                    continue
                if self.mode in ("503", "garbage") and up:
                    with contextlib.suppress(OSError, RuntimeError):
                        client.write(BUSY if self.mode == "503" else GARBAGE)
                    continue
                lost = TIMEOUT_SECONDS if self.random.random() < self.loss else 0.0
                last = max(last, loop.time() + self.delay + lost)  # what is behind a lost packet waits with it
                queue.put_nowait((last, data))
        queue.put_nowait((loop.time() + self.delay, b""))
        await task


async def main(host: str, port: int, to: tuple[str, int]) -> None:
    relay = Relay(to)
    server = await asyncio.start_server(relay.connection, host, port)
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print("ready", flush=True)
    async with server:
        while line := await commands.readline():
            for name, value in json.loads(line).items():
                setattr(relay, name, value)
            print("done", flush=True)


if __name__ == "__main__":
    listen, port, there, there_port = sys.argv[1:]
    asyncio.run(main(listen, int(port), (there, int(there_port))))
