#!/usr/bin/env python3
"""A minimal client of Annulus, written from docs/protocol.md alone. Python >= 3.10, no packages.

It shakes hands, echoes 64 bytes, sends a heartbeat and streams a completion. It is a demonstration
of the wire, not a library: one thread, small rings, no reconnecting.

Ordering. Python has no ordered atomics. Every shared word here is read and written through a
memoryview of 8-byte items, which CPython does with one 8-byte move, in program order. On x86-64 that
is enough for *release* and *acquire*: the processor keeps stores in order and loads in order (TSO).
The one thing that it does not keep is a store before a later load, and there the document asks for a
full fence: taking a lock is one. On any other processor this program refuses to run.
"""

import argparse
import fcntl
import json
import mmap
import os
import platform
import select
import socket
import struct
import sys
import threading
import time

# --- docs/protocol.md, "Numbers" -----------------------------------------------------------------

LINE = 64
PAGE = 4096
REGION_HEADER = 384
HOME = (PAGE - REGION_HEADER) // 2
FRAME_HEADER = 32
MARK = 0xA5
LAST = 1
PADDING_RUN_MAX = 3

ECHO, HEARTBEAT, COMPLETE, STREAM, CANCEL = 1, 2, 3, 4, 5
OK = 0
STATUS = [
    "ok", "message_too_large", "unknown_message_type", "handler_panic", "timeout", "cancelled",
    "busy", "invalid_request", "internal", "shutting_down", "provider_failed", "fault",
    "idle_timeout", "version_unsupported", "region_refused", "codec_unsupported", "not_authorized",
]
CODEC_JSON = 1
FEATURE_PAYLOAD_CHECK = 1

HELLO = struct.Struct("<8sHHIQQB31x")
WELCOME = struct.Struct("<8sHHIHHIIIQQII8x")
GOODBYE = struct.Struct("<8sHHI48x")
HEADER = struct.Struct("<IHBBQHHIII")


def status_name(number):
    return STATUS[number] if number < len(STATUS) else "internal"


# --- docs/protocol.md, "The header check" --------------------------------------------------------

CRC_TABLE = []
for byte in range(256):
    crc = byte
    for _ in range(8):
        crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    CRC_TABLE.append(crc)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def header_check(position, header):
    """Over the position, the header's first 24 bytes, and its payload check: 36 bytes."""
    return crc32c(struct.pack("<Q", position) + header[:24] + header[24:28])


def seal(position, payload_size, message_type, flags, request_id, deadline_ms=0, payload_check=0):
    fields = (payload_size, message_type, flags, MARK, request_id, 0, 0, deadline_ms, payload_check)
    header = HEADER.pack(*fields, 0)
    return HEADER.pack(*fields, header_check(position, header))


def span(payload_size):
    return (FRAME_HEADER + payload_size + LINE - 1) // LINE * LINE


FENCE = threading.Lock()


def full_fence():
    """Orders everything before it before everything after it: a locked instruction on x86-64."""
    with FENCE:
        pass


class Fault(Exception):
    """The daemon broke the protocol."""


class Closed(Exception):
    """The daemon hung up."""


class Connection:
    """One connection: its socket, its region, its two rings."""

    def __init__(self, path, capacity=64 * 1024, payload_checked=False, timeout=5.0):
        self.capacity = capacity
        region_size = 2 * capacity + PAGE

        # "Making the region": sealed, so that the daemon can trust its size.
        self.memfd = os.memfd_create("annulus-region", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.memfd, region_size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.memfd, fcntl.F_ADD_SEALS, seals)
        self.memory = memoryview(mmap.mmap(self.memfd, region_size))
        self.words = self.memory.cast("Q")
        self.request_doorbell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.response_doorbell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

        # "Where everything lies", in bytes of the file.
        self.request_ring = HOME
        header = capacity + HOME
        self.response_ring = header + REGION_HEADER
        # The shared header's lines, as indexes of words.
        self.response_head, self.client_parked, self.request_head, self.daemon_parked = (
            (header + line * LINE) // 8 for line in (1, 2, 3, 4)
        )
        self.daemon_blocked = (header + 5 * LINE) // 8

        # "Initial values". Everything else is zero already.
        self.tail = capacity - HOME  # where we publish requests
        self.head = 0  # where we take responses
        constants = header // 8
        self.words[constants] = int.from_bytes(b"ANNULUS1", "little")
        self.words[constants + 1] = capacity
        self.words[constants + 2] = capacity
        self.words[self.response_head] = self.head
        self.words[self.request_head] = self.tail
        self.words[self.daemon_parked] = 1

        self.request_head_seen = self.tail
        self.next_id = 1
        self.shake_hands(path, payload_checked, timeout)

    def shake_hands(self, path, payload_checked, timeout):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        wish = FEATURE_PAYLOAD_CHECK if payload_checked else 0
        hello = HELLO.pack(b"ANNULUS\n", 1, 0, wish, self.capacity, self.capacity, CODEC_JSON)
        descriptors = [self.memfd, self.request_doorbell, self.response_doorbell]
        try:
            socket.send_fds(self.socket, [hello], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Refused already: what the daemon said is still there to be read.
        welcome = b""
        while len(welcome) < WELCOME.size:
            received = self.socket.recv(WELCOME.size - len(welcome))
            if not received:
                raise Closed("the daemon closed in the middle of the handshake")
            welcome += received
        (magic, major, _minor, features, status, _, retry_after_ms, self.message_size_max,
         self.in_flight_max, self.connection_id, self.daemon_instance, self.idle_timeout_secs,
         self.core) = WELCOME.unpack(welcome)
        if magic != b"WELCOME\n":
            raise Fault("this is not an Annulus daemon")
        if status != OK:
            raise Closed(f"refused: {status_name(status)}, retry after {retry_after_ms} ms")
        if major != 1:
            raise Closed(f"protocol {major}")
        self.payload_checked = bool(features & wish & FEATURE_PAYLOAD_CHECK)
        self.socket.setblocking(False)

    # --- "Publishing": the request ring, we are its producer ---

    def send(self, message_type, payload=b"", request_id=None, deadline_ms=0, timeout=5.0):
        """Publishes one request, waits while the ring is full, and gives its id."""
        if len(payload) > self.message_size_max or span(len(payload)) + LINE > self.capacity:
            raise ValueError(f"a payload has at most {self.message_size_max} bytes")
        if request_id is None:
            request_id = self.next_id
            self.next_id += 1
        give_up = time.monotonic() + timeout
        while not self.try_publish(message_type, payload, request_id, deadline_ms):
            self.notify()  # There may be new padding, which a parked daemon has to skip.
            if time.monotonic() > give_up:
                raise TimeoutError("the request ring stayed full")
            time.sleep(0.0002)
        self.notify()
        return request_id

    def try_publish(self, message_type, payload, request_id, deadline_ms):
        head = self.words[self.request_head]
        if not self.request_head_seen <= head <= self.tail or head % LINE:
            raise Fault(f"request head {head}")
        self.request_head_seen = head
        size = span(len(payload))
        to_end = self.capacity - self.tail % self.capacity
        if size > to_end:
            if self.tail + to_end + LINE > head + self.capacity:
                return False
            self.store(0, to_end - FRAME_HEADER, to_end, b"", 0, 0)
        if self.tail + size + LINE > head + self.capacity:
            return False
        self.store(message_type, len(payload), size, payload, request_id, deadline_ms)
        return True

    def store(self, message_type, payload_size, size, payload, request_id, deadline_ms):
        check = crc32c(payload) if self.payload_checked and message_type else 0
        header = seal(self.tail, payload_size, message_type, 0, request_id, deadline_ms, check)
        at = self.request_ring + self.tail % self.capacity
        behind = self.request_ring + (self.tail + size) % self.capacity
        self.words[behind // 8] = 0  # 1. the zero behind the frame
        body = at + FRAME_HEADER
        self.memory[body : body + len(payload)] = payload  # 2. the payload
        words = struct.unpack("<4Q", header)
        for index in (3, 2, 1):
            self.words[at // 8 + index] = words[index]  # 3. the header but for its first word
        self.words[at // 8] = words[0]  # 4. the first word: published (release)
        self.tail += size

    def notify(self):
        """Rings the daemon if it is parked."""
        full_fence()
        if self.words[self.daemon_parked]:
            self.words[self.daemon_parked] = 0
            self.ring()

    def notify_of_space(self):
        """Rings the daemon if it waits for space in the response ring."""
        full_fence()
        if self.words[self.daemon_blocked]:
            self.words[self.daemon_blocked] = 0
            self.ring()

    def ring(self):
        try:
            os.eventfd_write(self.request_doorbell, 1)
        except BlockingIOError:
            pass  # A full counter wakes as well.

    # --- "Consuming": the response ring, we are its consumer ---

    def try_receive(self):
        """Takes the next frame: (request_id, status, last, payload), or None."""
        for _ in range(PADDING_RUN_MAX + 1):
            at = self.response_ring + self.head % self.capacity
            first = self.words[at // 8]  # acquire
            if first == 0:
                return None
            rest = (self.words[at // 8 + index] for index in (1, 2, 3))
            header = struct.pack("<4Q", first, *rest)  # copied once, judged from the copy
            (payload_size, message_type, flags, mark, request_id, status, reserved, _deadline,
             payload_check, check) = HEADER.unpack(header)
            if check != header_check(self.head, header) or mark != MARK:
                raise Fault("not a frame")
            if flags & ~LAST or reserved:
                raise Fault("undefined bits")
            if message_type == 0:
                size = FRAME_HEADER + payload_size
                if size > self.capacity or size % LINE:
                    raise Fault("padding")
                self.release(size)
                continue
            size = span(payload_size)
            if size > self.capacity - self.head % self.capacity:
                raise Fault("a frame beyond the ring's end")
            body = at + FRAME_HEADER
            payload = bytes(self.memory[body : body + payload_size])
            if self.payload_checked and crc32c(payload) != payload_check:
                raise Fault("payload check")
            self.release(size)
            return request_id, status, bool(flags & LAST), payload
        raise Fault("nothing but padding")

    def release(self, size):
        self.head += size
        self.words[self.response_head] = self.head  # release

    def receive(self, timeout=5.0):
        """Waits for the next frame: polls for a moment, then parks on the response doorbell."""
        give_up = time.monotonic() + timeout
        hung_up = False
        while True:
            for _ in range(50):
                frame = self.try_receive()
                if frame:
                    return frame
            if hung_up:
                raise Closed(self.goodbye())
            left = give_up - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            self.notify_of_space()
            self.words[self.client_parked] = 1
            full_fence()
            at = self.response_ring + self.head % self.capacity
            if self.words[at // 8] == 0:
                ready = self.park(left)
                # Whatever was published before the hang-up still counts: empty the ring first.
                hung_up = self.socket.fileno() in ready
            self.words[self.client_parked] = 0

    def park(self, seconds):
        poll = select.poll()
        poll.register(self.response_doorbell, select.POLLIN)
        poll.register(self.socket, select.POLLIN | select.POLLRDHUP)
        ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
        if self.response_doorbell in ready:
            os.eventfd_read(self.response_doorbell)
        return ready

    def goodbye(self):
        last_word = b""
        try:
            while len(last_word) < GOODBYE.size:
                received = self.socket.recv(GOODBYE.size - len(last_word))
                if not received:
                    break
                last_word += received
        except (BlockingIOError, ConnectionResetError):
            pass
        if len(last_word) < GOODBYE.size:
            return "the daemon went away without a word"
        _magic, status, fault, _retry_after_ms = GOODBYE.unpack(last_word)
        return f"the daemon closed: {status_name(status)}, fault {fault}"

    # --- Requests ---

    def answer(self, request_id):
        """The payloads of all frames that answer `request_id`, as they come."""
        while True:
            answered, status, last, payload = self.receive()
            if answered != request_id:
                continue  # Of a request that nobody waits for any more.
            if status != OK:
                raise RuntimeError(f"{status_name(status)}: {payload.decode(errors='replace')}")
            yield payload
            if last:
                return

    def call(self, message_type, payload=b"", **options):
        return b"".join(self.answer(self.send(message_type, payload, **options)))

    def cancel(self, request_id):
        """Its answer still ends with one last frame: cancelled, or its real end."""
        self.send(CANCEL, request_id=request_id)

    def close(self):
        self.socket.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", help="default: $XDG_RUNTIME_DIR/annulus/annulus.sock")
    parser.add_argument("--prompt", default="hello from Python")
    parser.add_argument("--payload-check", action="store_true", help="ask for checked payloads")
    arguments = parser.parse_args()
    if platform.machine() != "x86_64":
        sys.exit("this demonstration relies on the memory order of x86-64")
    path = arguments.socket or os.environ.get("ANNULUS_IPC_SOCKET_PATH")
    if not path:
        runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
        path = f"{runtime}/annulus/annulus.sock"

    connection = Connection(path, payload_checked=arguments.payload_check)
    print(f"connected: {connection.message_size_max} bytes and {connection.in_flight_max} in flight")

    payload = bytes(range(64))
    started = time.perf_counter()
    assert connection.call(ECHO, payload) == payload
    print(f"echo: {len(payload)} bytes in {(time.perf_counter() - started) * 1e6:.0f} us")

    # Enough to go round the rings several times, padding and all.
    for size in range(0, 30_000, 997):
        payload = bytes(size)
        assert connection.call(ECHO, payload) == payload
    print("echo: every size came back")

    assert connection.call(HEARTBEAT) == b""
    print("heartbeat: ok")

    messages = [{"role": "user", "content": arguments.prompt}]
    request = json.dumps({"model": "loopback", "messages": messages}).encode()
    text, pieces, end = "", 0, None
    for payload in connection.answer(connection.send(STREAM, request)):
        event = json.loads(payload)
        if event["type"] == "text":
            text += event["text"]
            pieces += 1
        elif event["type"] == "end":
            end = event["finishReason"]
    print(f"stream: {pieces} pieces, finish reason {end}")
    print(text, end="")

    connection.close()


if __name__ == "__main__":
    main()
