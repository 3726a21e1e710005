# System calls one after the other, from the table behind the code. See ../calls.py.
# An entry has 64 bytes: number, how many entries to go on by when it fails, six arguments. Without a number
# (-1): fails unless the byte at the first argument is the second.
        adr     x19, table
call:   ldr     x8, [x19]
        ldp     x0, x1, [x19, #16]
        ldp     x2, x3, [x19, #32]
        ldp     x4, x5, [x19, #48]
        tbnz    w8, #31, compare
        svc     #0
        tbnz    x0, #63, failed
next:   add     x19, x19, #64
        b       call
compare:
        ldrb    w2, [x0]
        cmp     w2, w1
        b.eq    next
failed: ldr     x2, [x19, #8]
        add     x19, x19, x2, lsl #6
        b       call
        .balign 8
table:
