.code16

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
    