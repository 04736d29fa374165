// Assembler macros that boot, relocate and efi share. Each says what it clobbers.
//
// assembly! in macros.rs puts this file before each .S file, with markers and constants from Rust.

        // \reg = \value, any 64-bit constant, without a literal pool. Clobbers nothing else.
        .macro mov_q reg, value
        movz    \reg, #((\value) & 0xffff)
        .if ((\value) >> 16) & 0xffff
        movk    \reg, #(((\value) >> 16) & 0xffff), lsl #16
        .endif
        .if ((\value) >> 32) & 0xffff
        movk    \reg, #(((\value) >> 32) & 0xffff), lsl #32
        .endif
        .if ((\value) >> 48) & 0xffff
        movk    \reg, #(((\value) >> 48) & 0xffff), lsl #48
        .endif
        .endm

        // \reg = the run-time address of \symbol, anywhere within 4 GiB. Clobbers nothing else.
        .macro adr_l reg, symbol
        adrp    \reg, \symbol
        add     \reg, \reg, :lo12:\symbol
        .endm

        // Branches to \absent unless the field at bit \field of the ID register \id is at least
        // \least. Clobbers x9, and flags if \least is not 1.
        .macro unless_feature id, field, absent, least=1
        mrs     x9, \id
        ubfx    x9, x9, #\field, #{ID_FIELD_BITS}
        .if \least == 1
        cbz     x9, \absent
        .else
        cmp     x9, #\least
        b.lo    \absent
        .endif
        .endm

        // Sets \bits, one run of ones, in \reg if the field at bit \field of the ID register \id is
        // at least \least. Clobbers as unless_feature.
        .macro set_where_feature reg, bits, id, field, least=1
        unless_feature \id, \field, .Labsent\@, \least
        orr     \reg, \reg, #\bits
        .Labsent\@:
        .endm

        // \line = this CPU's smallest data cache line in bytes. Clobbers \scratch.
        .macro dcache_line line, scratch
        mrs     \scratch, ctr_el0
        ubfx    \scratch, \scratch, #{CTR_DMINLINE}, #{ID_FIELD_BITS}
        mov     \line, #4
        lsl     \line, \line, \scratch
        .endm

        // Does dc \operation on every line of \start..\end, at least one. The caller's dsb
        // completes the maintenance. Clobbers \start, \scratch, flags.
        .macro dcache_by_line operation, start, end, line, scratch
        sub     \scratch, \line, #1
        bic     \start, \start, \scratch
        .Lline\@:
        dc      \operation, \start
        add     \start, \start, \line
        cmp     \start, \end
        b.lo    .Lline\@
        .endm

        // x8 = the UART of the early console: the one that Rust opened, else the one that the Image
        // names. Clobbers x9.
        .macro early_uart
        adr_l   x8, early_uart_opened
        ldr     x9, [x8, #{UART_STATUS}]
        cbnz    x9, .Lopened\@
        adr_l   x8, early_uart_of_image
        .Lopened\@:
        .endm

        // Stores why this kernel fails, a number of boot::failure_record::Reason, in the failure
        // record. Leaves its address in x9. Clobbers x10.
        .macro fail_because reason
        adr_l   x9, failure_record
        mov     x10, #\reason
        str     x10, [x9, #{FAILURE_REASON}]
        .endm

        // Reads or writes a device register of 1, 2 or 4 bytes, by the number in w17. \operation is
        // ldr or str, \value a register's number. Clobbers flags.
        .macro register_of_width operation, value, address
        cmp     w17, #2
        b.hi    .Lword\@
        b.eq    .Lhalf\@
        \operation\()b w\value, [\address]
        b       .Ldone\@
        .Lhalf\@:
        \operation\()h w\value, [\address]
        b       .Ldone\@
        .Lword\@:
        \operation w\value, [\address]
        .Ldone\@:
        .endm

        // Defines a printer for the boot::uart::Uart that x8 points to. It needs no stack and
        // writes no memory. The label \name\()_end must follow, after its code:
        //   \name\()_text   prints the NUL-terminated text after its bl, and returns past the text
        //   \name\()_hex    prints x0 as 16 hexadecimal digits
        //   \name\()_digits prints the digits of x0 from bit x11 + 3 downwards
        // All of them clobber x9-x17, flags and x30. They do as Uart::transmit does: if the UART
        // never has room, each character costs a bounded wait. Without a UART they print nothing,
        // or call \without for each character, in w9; it may clobber x9, x10, x12 and x14-x17.
        .macro printer name, without
        \name\()_text:
        mov     x13, x30
        .Lnext\@:
        ldrb    w9, [x13], #1
        cbz     w9, .Lbehind\@
        bl      .Lcharacter\@
        b       .Lnext\@
        .Lbehind\@:
        add     x13, x13, #3
        and     x13, x13, #~3
        ret     x13

        \name\()_hex:
        mov     w11, #60
        \name\()_digits:
        mov     x13, x30
        .Ldigit\@:
        lsr     x9, x0, x11
        and     w9, w9, #0xf
        add     w10, w9, #'0'
        cmp     w9, #10
        add     w9, w9, #'a' - 10
        csel    w9, w10, w9, lo
        bl      .Lcharacter\@
        subs    w11, w11, #4
        b.pl    .Ldigit\@
        ret     x13

        // Sends the character in w9.
        .Lcharacter\@:
        ldr     x10, [x8, #{UART_STATUS}]
        .ifb \without
        cbz     x10, .Lsilent\@
        .else
        cbz     x10, \without
        .endif
        ldp     w14, w15, [x8, #{UART_ROOM}]    // mask, and value if there is room
        ldr     w17, [x8, #{UART_STATUS_BYTES}]
        mov     w12, #{UART_POLLS}
        .Lfull\@:
        register_of_width ldr, 16, x10
        and     w16, w16, w14
        cmp     w16, w15
        b.eq    .Lroom\@
        subs    w12, w12, #1
        b.ne    .Lfull\@
        .Lroom\@:
        .irp    nth, 0, 1
        ldp     x10, x14, [x8, #{UART_BEFORE} + 16 * \nth]
        cbz     x10, 1f
        str     w14, [x10]
1:
        .endr
        ldr     x10, [x8, #{UART_DATA}]
        ldr     w17, [x8, #{UART_DATA_BYTES}]
        register_of_width str, 9, x10
        .Lsilent\@:
        ret
        .endm

        // Prints \text, then \value in hexadecimal if there is one, by \printer.
        // Clobbers x0, x9-x17, flags and x30.
        .macro say printer, text, value
        bl      \printer\()_text
        .asciz  "\text"
        .balign 4
        .ifnb \value
        mov     x0, \value
        bl      \printer\()_hex
        .endif
        .endm

        // Starts a line with \marker of boot::marker, then prints \value in hexadecimal if there is
        // one, by \printer. Clobbers x0, x9-x17, flags and x30.
        .macro say_marker printer, marker, value
        bl      \printer\()_text
        .ascii  "\r\n"
        marker_\marker
        .byte   0
        .balign 4
        .ifnb \value
        mov     x0, \value
        bl      \printer\()_hex
        .endif
        .endm

        // Prints that rule \number of the boot protocol is broken, then \text. The number has two
        // decimal digits. Clobbers x0, x9-x17, flags and x30.
        .macro say_broken printer, number, text
        say_marker \printer, broken
        mov     x9, \number
        mov     w10, #10
        udiv    w11, w9, w10
        msub    w0, w11, w10, w9
        orr     w0, w0, w11, lsl #4
        mov     w11, #4
        bl      \printer\()_digits
        say     \printer, "\text"
        .endm

        // Prints the last line of a CPU that stops. Clobbers x9-x17, flags and x30.
        .macro say_stopped printer
        bl      \printer\()_text
        .ascii  "\r\n"
        marker_stopped
        .asciz  "\r\n"
        .balign 4
        .endm

        // One of the 16 slots of a vector table: branches to \target with x1 = \slot. Saves x0 and
        // x1 in system registers, because there may be no stack.
        .macro vector slot, target
        .balign 128
        msr     tpidr_el0, x0
        msr     tpidrro_el0, x1
        mov     x1, #\slot
        b       \target
        .endm

        // A whole vector table, starting here. \call takes the synchronous exceptions of EL2 itself
        // and of EL1; \otherwise takes everything else.
        .macro stub_vectors call, otherwise
        .irp    slot, 0, 1, 2, 3
        vector  \slot, \otherwise
        .endr
        .balign 128
        b       \call
        .irp    slot, 5, 6, 7
        vector  \slot, \otherwise
        .endr
        .balign 128
        b       \call
        .irp    slot, 9, 10, 11, 12, 13, 14, 15
        vector  \slot, \otherwise
        .endr
        .balign 128
        .endm

        // Saves x0 to x30 at \frame; x0 and x1 come from where `vector` saved them.
        // Clobbers x2, x3.
        .macro save_registers frame
        stp     x2, x3, [\frame, #16]
        stp     x4, x5, [\frame, #32]
        stp     x6, x7, [\frame, #48]
        stp     x8, x9, [\frame, #64]
        stp     x10, x11, [\frame, #80]
        stp     x12, x13, [\frame, #96]
        stp     x14, x15, [\frame, #112]
        stp     x16, x17, [\frame, #128]
        stp     x18, x19, [\frame, #144]
        stp     x20, x21, [\frame, #160]
        stp     x22, x23, [\frame, #176]
        stp     x24, x25, [\frame, #192]
        stp     x26, x27, [\frame, #208]
        stp     x28, x29, [\frame, #224]
        str     x30, [\frame, #240]
        mrs     x2, tpidr_el0
        mrs     x3, tpidrro_el0
        stp     x2, x3, [\frame]
        .endm

        // \esr, \elr, \far, \spsr = the syndrome of the exception just taken, read at the current
        // level. Branches to \silence if \printer itself faulted: its UART does not work, so there
        // is no way to print. Clobbers x9, x10, flags.
        .macro syndrome esr, elr, far, spsr, printer, silence
        mrs     x9, CurrentEL
        cmp     x9, #{CURRENT_EL2}
        b.eq    .Lel2\@
        mrs     \esr, esr_el1
        mrs     \elr, elr_el1
        mrs     \far, far_el1
        mrs     \spsr, spsr_el1
        b       .Lread\@
        .Lel2\@:
        mrs     \esr, esr_el2
        mrs     \elr, elr_el2
        mrs     \far, far_el2
        mrs     \spsr, spsr_el2
        .Lread\@:
        adr     x9, \printer\()_text
        adr     x10, \printer\()_end
        cmp     \elr, x9
        ccmp    \elr, x10, #{NZCV_C}, hs
        b.lo    \silence
        .endm

        // Handles a synchronous exception at EL2 as the hyp-stub does, for the two calls that every
        // stub has: SET_VECTORS and SOFT_RESTART. With another number in x0 it falls through, with
        // x0 to x18 unchanged. Anything but an HVC goes to \otherwise, as from `vector`.
        // Always clobbers TPIDR_EL2. [I3]
        //   in        x0 = number, x1-x4 = arguments
        //   assumes   EL2h, DAIF masked by the exception; MMU off, or this code mapped 1:1 and
        //             executable
        .macro stub_calls otherwise
        // Only a 64-bit HVC is a call: a trapped register read with x0 = 1 must not restart the
        // machine.
        msr     tpidr_el2, x18
        mrs     x18, esr_el2
        ubfx    x18, x18, #{EC_SHIFT}, #{EC_BITS}
        cmp     x18, #{EC_HVC64}
        mrs     x18, tpidr_el2
        b.ne    .Lno_call\@

        cmp     x0, #{SET_VECTORS}
        b.ne    .Lnot_set_vectors\@
        mov_q   x0, {STUB_ERR}
        tst     x1, #({VECTORS_ALIGNMENT} - 1)
        b.ne    .Lanswer\@
        msr     vbar_el2, x1
        mov     x0, xzr
        // The ERET is a context synchronisation event: the next exception uses the new vectors.
        .Lanswer\@:
        eret

        .Lno_call\@:
        msr     tpidr_el0, x0
        msr     tpidrro_el0, x1
        // SPSR shows which of the two slots it was.
        mrs     x0, spsr_el2
        mov     x1, #4
        tbnz    x0, #{SPSR_AT_EL2_BIT}, \otherwise
        mov     x1, #8
        b       \otherwise

        .Lnot_set_vectors\@:
        cmp     x0, #{SOFT_RESTART}
        b.ne    .Lnot_soft_restart\@
        // The ABI promises this to the target, whatever ran at EL2 before: nothing interrupts, and
        // EL2's MMU and caches are off.
        msr     daifset, #{DAIF_ALL}
        mov_q   x9, {SCTLR_EL2_MMU_OFF}
        // Falkor erratum 1041: without this isb, a speculative instruction fetch may go to a wrong
        // address while the MMU is turned off.
        isb
        msr     sctlr_el2, x9
        // MMU and caches are off before the branch.
        isb
        mov     x9, x1
        mov     x0, x2
        mov     x1, x3
        mov     x2, x4
        br      x9
        .Lnot_soft_restart\@:
        .endm
