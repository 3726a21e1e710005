# --init: what a container's pid 1 is while it forwards signals and reaps. See ../init.py.
# Descriptor 0 has the child's pid (4 bytes); all signals to be forwarded, and SIGCHLD, are blocked.
        mov     $157, %eax              # prctl(PR_SET_NAME, name)
        mov     $15, %edi
        lea     name(%rip), %rsi
        syscall
        sub     $16, %rsp
        xor     %eax, %eax              # read(0, pid, 4)
        xor     %edi, %edi
        mov     %rsp, %rsi
        mov     $4, %edx
        syscall
        mov     (%rsp), %ebx            # the child
        mov     $-1, %r13d              # its exit code, once known
reap:   mov     $61, %eax               # wait4(-1, status, WNOHANG, NULL)
        mov     $-1, %rdi
        mov     %rsp, %rsi
        mov     $1, %edx
        xor     %r10d, %r10d
        syscall
        test    %eax, %eax
        jle     reaped
        cmp     %ebx, %eax
        jne     reap
        mov     (%rsp), %r13d           # status: code in the second byte, signal in the first
        mov     %r13d, %eax
        shr     $8, %r13d
        and     $255, %r13d
        and     $127, %eax
        jz      reap
        lea     128(%rax), %r13d
        jmp     reap
reaped: test    %r13d, %r13d
        js      await
        mov     %r13d, %edi
        mov     $231, %eax              # exit_group(code)
        syscall
await:  mov     $128, %eax              # rt_sigtimedwait(signals, NULL, NULL, 8)
        lea     signals(%rip), %rdi
        xor     %esi, %esi
        xor     %edx, %edx
        mov     $8, %r10d
        syscall
        cmp     $17, %eax               # SIGCHLD
        je      reap
        test    %eax, %eax              # interrupted
        jle     reap
        mov     %eax, %esi
        mov     %ebx, %edi
        mov     $62, %eax               # kill(child, signal): fails when it is gone or another user's
        syscall
        jmp     reap
        .balign 8
name:   .asciz  "docker-init"
        .balign 8
signals:                                # the mask follows
