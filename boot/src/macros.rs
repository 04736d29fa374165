//! The assembler macros that `boot` and `relocate` share, and the one way to bring a `.S` file in.
//!
//! *When:* at build time. A macro is defined at the head of each file and purged at its end, because the assembler sees a crate's
//! files as one text.

/// Assembles a `.S` file with the shared macros; what follows the file are `const` and `sym` operands, as of `global_asm!`.
#[macro_export]
macro_rules! assembly {
    ($text:expr $(, $($operand:tt)*)?) => {
        core::arch::global_asm!($crate::assembler_macros!(), $text, $crate::assembler_purge!() $(, $($operand)*)?);
    };
}

/// The text of the shared macros.
#[doc(hidden)]
#[macro_export]
macro_rules! assembler_macros {
    () => {
        concat!(
            r#"
        // \reg = \value, any 64-bit constant, without a literal pool.
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

        // \reg = the run-time address of \symbol, anywhere within 4 GiB.
        .macro adr_l reg, symbol
        adrp    \reg, \symbol
        add     \reg, \reg, :lo12:\symbol
        .endm

        // Branch to \absent unless the 4-bit field at \lsb of the ID register \id is at least \least. Clobbers x9, flags.
        .macro unless_feature id, lsb, least, absent
        mrs     x9, \id
        ubfx    x9, x9, #\lsb, #4
        cmp     x9, #\least
        b.lo    \absent
        .endm

        // \bits are set in \reg where the 4-bit field at \lsb of the ID register \id is at least \least. Clobbers x9, flags.
        .macro set_where_feature reg, bits, id, lsb, least
        unless_feature \id, \lsb, \least, .Labsent\@
        mov_q   x9, \bits
        orr     \reg, \reg, x9
        .Labsent\@:
        .endm

        // \line = the smallest data cache line in bytes. Clobbers \scratch.
        .macro dcache_line line, scratch
        mrs     \scratch, ctr_el0
        ubfx    \scratch, \scratch, #16, #4
        mov     \line, #4
        lsl     \line, \line, \scratch
        .endm

        // dc \operation on every line of \start..\end, at least one; the caller's dsb completes it. Clobbers \start, \scratch, flags.
        .macro dcache_by_line operation, start, end, line, scratch
        sub     \scratch, \line, #1
        bic     \start, \start, \scratch
        .Lline\@:
        dc      \operation, \start
        add     \start, \start, \line
        cmp     \start, \end
        b.lo    .Lline\@
        .endm

        // A printer that needs neither stack nor memory, for a PL011 whose base is in x8:
        //   \name\()_text   prints the NUL-terminated text that follows its bl, and returns behind it
        //   \name\()_hex    prints x0 in 16 digits
        // Both clobber x9-x12, flags and x30. A transmitter that never drains costs a bounded wait for each character.
        .macro printer name
        \name\()_text:
        1:      ldrb    w9, [x30], #1
        cbz     w9, 4f
        mov     w12, #0x10000
        2:      ldr     w10, [x8, #0x18]
        tbz     w10, #5, 3f
        subs    w12, w12, #1
        b.ne    2b
        3:      str     w9, [x8]
        b       1b
        4:      add     x30, x30, #3
        and     x30, x30, #~3
        ret

        \name\()_hex:
        mov     w11, #60
        1:      lsr     x9, x0, x11
        and     w9, w9, #0xf
        add     w10, w9, #'0'
        cmp     w9, #10
        add     w9, w9, #'a' - 10
        csel    w9, w10, w9, lo
        mov     w12, #0x10000
        2:      ldr     w10, [x8, #0x18]
        tbz     w10, #5, 3f
        subs    w12, w12, #1
        b.ne    2b
        3:      str     w9, [x8]
        subs    w11, w11, #4
        b.pl    1b
        ret
        .endm

        // Says \text, and \value where one is given, through \printer. Clobbers x0, x9-x12, flags and x30.
        .macro say printer, text, value
        bl      \printer\()_text
        .asciz  "\text"
        .balign 4
        .ifnb \value
        mov     x0, \value
        bl      \printer\()_hex
        .endif
        .endm

        // The last words of a CPU.
        .macro say_stopped printer
        say     \printer, "\r\n"#,
            $crate::stopped!(),
            r#"\r\n"
        .endm

        // One of the 16 slots of a vector table that saves x0 and x1 where no stack is needed, and goes to \target with x1 = \slot.
        .macro vector slot, target
        .balign 128
        to_printer \slot, \target
        .endm

        // The same, anywhere.
        .macro to_printer slot, target
        msr     tpidr_el0, x0
        msr     tpidrro_el0, x1
        mov     x1, #\slot
        b       \target
        .endm

        // The hyp-stub's answer to a synchronous exception, the two calls that every stub knows: SET_VECTORS and SOFT_RESTART.
        // Falls through, with x0 to x18 as they came, where x0 is another number; anything but an HVC goes to \not_hvc, with all
        // registers as they came. Clobbers TPIDR_EL2 in any case. [I3]
        //   in        x0 = number, x1-x4 = arguments
        //   assumes   EL2h, DAIF masked by the exception; MMU off or this code mapped 1:1 and executable
        .macro stub_calls not_hvc, ec_shift, ec_hvc64, set_vectors, soft_restart, stub_err, alignment, mmu_off
        // Only a 64-bit HVC is a call: a trapped register read with x0 = 1 must not restart the machine.
        msr     tpidr_el2, x18
        mrs     x18, esr_el2
        ubfx    x18, x18, #\ec_shift, #6
        cmp     x18, #\ec_hvc64
        mrs     x18, tpidr_el2
        b.ne    \not_hvc

        cmp     x0, #\set_vectors
        b.ne    .Lnot_set_vectors\@
        mov_q   x0, \stub_err
        tst     x1, #(\alignment - 1)
        b.ne    .Lanswer\@
        msr     vbar_el2, x1
        mov     x0, xzr
        // The ERET is a context synchronisation event: the next exception goes to the new vectors.
        .Lanswer\@:
        eret

        .Lnot_set_vectors\@:
        cmp     x0, #\soft_restart
        b.ne    .Lnot_soft_restart\@
        // The ABI's promise, kept whoever ran before: nothing interrupts, EL2 neither translates nor caches.
        msr     daifset, #0xf
        mov_q   x9, \mmu_off
        // What was fetched under the old SCTLR is not executed under the new one, nor the branch under the old.
        isb
        msr     sctlr_el2, x9
        isb
        mov     x9, x1
        mov     x0, x2
        mov     x1, x3
        mov     x2, x4
        br      x9
        .Lnot_soft_restart\@:
        .endm
        "#
        )
    };
}

/// Forgets the shared macros.
#[doc(hidden)]
#[macro_export]
macro_rules! assembler_purge {
    () => {
        r#"
        .purgem mov_q
        .purgem adr_l
        .purgem unless_feature
        .purgem set_where_feature
        .purgem dcache_line
        .purgem dcache_by_line
        .purgem printer
        .purgem say
        .purgem say_stopped
        .purgem vector
        .purgem to_printer
        .purgem stub_calls
        "#
    };
}
