// --init: what a container's pid 1 is while it forwards signals and reaps. See ../init.py.
// Descriptor 0 has the child's pid (4 bytes); all signals to be forwarded, and SIGCHLD, are blocked.
        mov     x8, #167                // prctl(PR_SET_NAME, name)
        mov     x0, #15
        adr     x1, name
        svc     #0
        sub     sp, sp, #16
        mov     x8, #63                 // read(0, pid, 4)
        mov     x0, #0
        mov     x1, sp
        mov     x2, #4
        svc     #0
        ldr     w19, [sp]               // the child
        mov     w20, #-1                // its exit code, once known
reap:   mov     x8, #260                // wait4(-1, status, WNOHANG, NULL)
        mov     x0, #-1
        mov     x1, sp
        mov     x2, #1
        mov     x3, #0
        svc     #0
        cmp     w0, #0
        b.le    reaped
        cmp     w0, w19
        b.ne    reap
        ldr     w1, [sp]                // status: code in the second byte, signal in the first
        ubfx    w20, w1, #8, #8
        ands    w1, w1, #127
        b.eq    reap
        add     w20, w1, #128
        b       reap
reaped: tbnz    w20, #31, await
        mov     w0, w20
        mov     x8, #94                 // exit_group(code)
        svc     #0
await:  mov     x8, #137                // rt_sigtimedwait(signals, NULL, NULL, 8)
        adr     x0, signals
        mov     x1, #0
        mov     x2, #0
        mov     x3, #8
        svc     #0
        cmp     w0, #17                 // SIGCHLD
        b.eq    reap
        cmp     w0, #0                  // interrupted
        b.le    reap
        mov     w1, w0
        mov     w0, w19
        mov     x8, #129                // kill(child, signal): fails when it is gone or another user's
        svc     #0
        b       reap
        .balign 8
name:   .asciz  "docker-init"
        .balign 8
signals:                                // the mask follows
