# System calls one after the other, from the table behind the code. See ../calls.py.
# An entry has 64 bytes: number, how many entries to go on by when it fails, six arguments. Without a number
# (-1): fails unless the byte at the first argument is the second.
        lea     table(%rip), %rbx
call:   mov     (%rbx), %eax
        mov     16(%rbx), %rdi
        mov     24(%rbx), %rsi
        mov     32(%rbx), %rdx
        mov     40(%rbx), %r10
        mov     48(%rbx), %r8
        mov     56(%rbx), %r9
        test    %eax, %eax
        js      compare
        syscall
        test    %rax, %rax
        js      failed
next:   add     $64, %rbx
        jmp     call
compare:
        cmp     %sil, (%rdi)
        je      next
failed: mov     8(%rbx), %rcx
        shl     $6, %rcx
        add     %rcx, %rbx
        jmp     call
        .balign 8
table:
