# SPDX-License-Identifier: Apache-2.0
"""The guest: a 64 KiB boot ROM that proves on its serial console what happened to it.

There is no operating system and no BIOS to wait for: the CPU starts in our ROM, which says

    acme-guest boot 1
    tick 1
    tick 2 ...

A tick is due every 100 ms. The tick counter and the boot counter live in the guest's memory, so
they show what a driver did to the machine: a pause stops the ticks, a resume goes on with the
next number, a reset starts again at tick 1 with the next boot number, and a restored snapshot
brings back the number it was taken at. A byte sent to the console is answered by `echo BYTE`.

The program is 8086 real-mode code, put together byte by byte below; each line carries its
mnemonic. Ports: 0x3f8 first serial port, 0x20 interrupt controller, 0x40 interval timer.
"""

from __future__ import annotations

import re
from pathlib import Path

ROM_BYTES = 0x10000
BANNER = "acme-guest boot "
TICK_S = 0.1

_BANNER = re.compile(rf"^{BANNER}(\d+)", re.MULTILINE)
_TICK = re.compile(r"^tick (\d+)\r?$", re.MULTILINE)

_MAGIC, _BOOTS, _TICKS, _IRQS = 0x500, 0x502, 0x504, 0x506


class _Program:
    """Bytes with labels; a jump is written once its target is known."""

    def __init__(self) -> None:
        self.code = bytearray()
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, int, str]] = []

    def add(self, hexes: str) -> None:
        """Append bytes given in hexadecimal."""
        self.code += bytes.fromhex(hexes)

    def label(self, name: str) -> None:
        """Name the next byte's address."""
        self._labels[name] = len(self.code)

    def jump(self, opcode: str, target: str, width: int = 1) -> None:
        """Append an opcode whose operand is the distance to a label."""
        self.add(opcode)
        self._jumps.append((len(self.code), width, target))
        self.code += bytes(width)

    def out(self, port: int, value: int) -> None:
        """Append: mov al, value; out port, al."""
        self.code += bytes((0xB0, value))
        if port < 0x100:
            self.code += bytes((0xE6, port))
        else:
            self.code += b"\xba" + port.to_bytes(2, "little") + b"\xee"

    def say(self, text: str) -> None:
        """Append a call of `putc` for each character."""
        for byte in text.encode("ascii"):
            self.code += bytes((0xB0, byte))  # mov al, byte
            self.jump("e8", "putc", 2)  # call putc

    def address(self, name: str) -> str:
        """A label's address as two little-endian bytes, in hexadecimal."""
        return self._labels[name].to_bytes(2, "little").hex()

    def finish(self) -> bytes:
        """The bytes with every jump filled in."""
        for at, width, target in self._jumps:
            distance = self._labels[target] - (at + width)
            self.code[at : at + width] = distance.to_bytes(width, "little", signed=True)
        return bytes(self.code)


def rom() -> bytes:
    """The whole ROM image, for QEMU's `-bios`."""
    program = _Program()
    _subroutines(program)
    program.label("start")
    _set_up(program)
    _boot_banner(program)
    _main_loop(program)
    code = program.finish()
    entry = program.address("start")
    reset = bytes.fromhex("ea" + entry + "00f0")  # jmp 0xf000:start
    image = code.ljust(ROM_BYTES - 16, b"\xff") + reset
    return image.ljust(ROM_BYTES, b"\xff")


def write_rom(path: Path) -> Path:
    """Write the ROM to a file and return its path."""
    path.write_bytes(rom())
    return path


def boots(console: str) -> list[int]:
    """Boot numbers on a console, in order."""
    return [int(number) for number in _BANNER.findall(console)]


def ticks(console: str) -> list[int]:
    """Tick numbers on a console, in order; a line still being written is left out."""
    complete = console[: console.rfind("\n") + 1]
    return [int(number) for number in _TICK.findall(complete)]


def _word(address: int) -> str:
    return address.to_bytes(2, "little").hex()


def _subroutines(program: _Program) -> None:
    """The timer interrupt, one character out, one number out."""
    program.label("timer")
    program.add("50")  # push ax
    program.add("ff06" + _word(_IRQS))  # inc word [irqs]
    program.out(0x20, 0x20)  # end of interrupt
    program.add("58 cf")  # pop ax; iret

    program.label("putc")  # al: character
    program.add("52 50 ba fd 03")  # push dx; push ax; mov dx, 0x3fd
    program.label("busy")
    program.add("ec a8 20")  # in al, dx; test al, 0x20
    program.jump("74", "busy")  # jz busy
    program.add("58 ba f8 03 ee 5a c3")  # pop ax; mov dx, 0x3f8; out dx, al; pop dx; ret

    program.label("number")  # ax: number, printed in decimal and ended with a line feed
    program.add("bb 0a 00 31 c9")  # mov bx, 10; xor cx, cx
    program.label("digit")
    program.add("31 d2 f7 f3 52 41 85 c0")  # xor dx,dx; div bx; push dx; inc cx; test ax, ax
    program.jump("75", "digit")  # jnz digit
    program.label("print")
    program.add("58 04 30")  # pop ax; add al, '0'
    program.jump("e8", "putc", 2)  # call putc
    program.jump("e2", "print")  # loop print
    program.say("\r\n")
    program.add("c3")  # ret


def _set_up(program: _Program) -> None:
    """Stack, interrupt vector 8, interrupt controller, timer at 20 Hz, serial port."""
    program.add("fa fc 31 c0 8e d8 8e d0 bc 00 7c")  # cli; cld; ax=ds=ss=0; mov sp, 0x7c00
    program.add("c7 06 20 00" + program.address("timer"))  # mov word [0x20], timer
    program.add("c7 06 22 00 00 f0")  # mov word [0x22], 0xf000
    for port, value in ((0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01), (0x21, 0xFE)):
        program.out(port, value)
    for port, value in ((0x43, 0x34), (0x40, 0x0B), (0x40, 0xE9)):  # 1193182 Hz / 59659
        program.out(port, value)
    for port, value in ((0x3FB, 0x83), (0x3F8, 0x01), (0x3F9, 0x00), (0x3FB, 0x03)):
        program.out(port, value)


def _boot_banner(program: _Program) -> None:
    """Count this boot in memory, which a reset keeps, and say its number."""
    program.add("81 3e" + _word(_MAGIC) + "3e ac")  # cmp word [magic], 0xac3e
    program.jump("74", "warm")  # je warm
    program.add("c7 06" + _word(_MAGIC) + "3e ac")  # mov word [magic], 0xac3e
    program.add("c7 06" + _word(_BOOTS) + "00 00")  # mov word [boots], 0
    program.label("warm")
    program.add("ff 06" + _word(_BOOTS))  # inc word [boots]
    program.add("c7 06" + _word(_TICKS) + "00 00")  # mov word [ticks], 0
    program.add("c7 06" + _word(_IRQS) + "00 00")  # mov word [irqs], 0
    program.say(BANNER)
    program.add("a1" + _word(_BOOTS))  # mov ax, [boots]
    program.jump("e8", "number", 2)  # call number


def _main_loop(program: _Program) -> None:
    """Sleep until an interrupt; answer the console; say a tick for every second interrupt."""
    program.label("loop")
    program.add("fb f4")  # sti; hlt
    program.add("ba fd 03 ec a8 01")  # mov dx, 0x3fd; in al, dx; test al, 1
    program.jump("74", "silent")  # jz silent
    program.add("ba f8 03 ec 50")  # mov dx, 0x3f8; in al, dx; push ax
    program.say("echo ")
    program.add("58")  # pop ax
    program.jump("e8", "putc", 2)  # call putc
    program.say("\r\n")
    program.label("silent")
    program.add("83 3e" + _word(_IRQS) + "02")  # cmp word [irqs], 2
    program.jump("72", "loop")  # jb loop
    program.add("83 2e" + _word(_IRQS) + "02")  # sub word [irqs], 2
    program.add("ff 06" + _word(_TICKS))  # inc word [ticks]
    program.say("tick ")
    program.add("a1" + _word(_TICKS))  # mov ax, [ticks]
    program.jump("e8", "number", 2)  # call number
    program.jump("e9", "loop", 2)  # jmp loop
