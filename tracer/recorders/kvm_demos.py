"""Small guest programs whose writes are known: to show and to test what a dirty log says.

Each is a few instructions of 16-bit real mode. The registers say which pages it writes; at the end
of a pass it writes to an I/O port, which stops the vCPU and hands the turn to the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

PORT = 0x10
#: Pages of a demo guest: what real mode reaches without tricks, less the last 64 KiB.
PAGES = 240
#: The code's page; the programs write pages from `FIRST` on.
CODE_PAGE, FIRST = 1, 16


@dataclass(frozen=True)
class Demo:
    """A program: its source (GNU as, AT&T), what it was assembled to, and what it writes.

    It starts with si and di: the segment of its first page and of the page after its last; cx:
    its pages in all; bx: 1.
    """

    name: str
    text: str
    source: str
    code: bytes

    def passes(self, first: int = FIRST, pages: int = PAGES - FIRST) -> Iterator[set[int]]:
        """Yield the pages that each pass writes, without end."""
        value = 1
        for number in count():
            if self.name == "sweep":
                yield set(range(first, first + pages))
            elif self.name == "hot":
                cold = first + HOT + number % (pages - HOT)
                yield {*range(first, first + HOT), cold}
            else:
                found = set()
                for _ in range(SCATTERED):
                    value = (value * 25173 + 13849) & 0xFFFF
                    found.add(first + (value * pages >> 16))
                yield found


#: Pages that `hot` writes in every pass, and writes that `scatter` makes in one.
HOT = 8
SCATTERED = 32

SWEEP = Demo(
    "sweep",
    "writes every page in order, again and again",
    """
again:  mov %si, %ax
page:   mov %ax, %es
        incb %es:0
        add $0x100, %ax
        cmp %di, %ax
        jne page
        out %al, $0x10
        jmp again
    """,
    bytes.fromhex("89f0 8ec0 26fe060000 050001 39f8 75f2 e610 ebec"),
)

HOT_AND_COLD = Demo(
    "hot",
    f"writes {HOT} pages in every pass and one other page in turn",
    """
        mov %si, %bp
        add $0x800, %bp
        mov %bp, %dx
again:  mov %si, %ax
page:   mov %ax, %es
        incb %es:0
        add $0x100, %ax
        cmp %bp, %ax
        jne page
        mov %dx, %es
        incb %es:0
        add $0x100, %dx
        cmp %di, %dx
        jne done
        mov %bp, %dx
done:   out %al, $0x10
        jmp again
    """,
    bytes.fromhex(
        "89f5 81c50008 89ea 89f0 8ec0 26fe060000 050001 39e8 75f2 8ec2 26fe060000 81c20001 39fa"
        "7502 89ea e610 ebdb"
    ),
)

SCATTER = Demo(
    "scatter",
    f"writes {SCATTERED} pages a pass, drawn by a linear congruential generator",
    """
again:  mov $32, %bp
draw:   mov $25173, %ax
        mul %bx
        add $13849, %ax
        mov %ax, %bx
        mul %cx
        mov %dx, %ax
        shl $8, %ax
        add %si, %ax
        mov %ax, %es
        incb %es:0
        dec %bp
        jnz draw
        out %al, $0x10
        jmp again
    """,
    bytes.fromhex(
        "bd2000 b85562 f7e3 051936 89c3 f7e1 89d0 c1e008 01f0 8ec0 26fe060000 4d 75e3 e610 ebdc"
    ),
)

DEMOS = {demo.name: demo for demo in (SWEEP, HOT_AND_COLD, SCATTER)}
