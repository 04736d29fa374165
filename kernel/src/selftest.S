// The far side of the hyp-stub's conformance suite: what is seen at EL2 itself.
//
// All state comes back in registers: at EL2 the MMU is off, and memory that EL1 has in its cache is better left alone.

        .section .text, "ax"

// selftest_call — calls the stub with a pattern in every register that it must keep.
//   in        x0 = number, x1–x4 = arguments
//   assumes   EL1h or EL2h, the stub's vectors at EL2
//   out       x0 = answer; x1 = 0 where x19–x30 came back as they went
//   clobbers  as a function call
//   memory    uses the stack
        .global selftest_call
selftest_call:
        stp     x29, x30, [sp, #-96]!
        stp     x19, x20, [sp, #16]
        stp     x21, x22, [sp, #32]
        stp     x23, x24, [sp, #48]
        stp     x25, x26, [sp, #64]
        stp     x27, x28, [sp, #80]
        .irp    n, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
        mov     x\n, #(0x5a00 + \n)
        .endr
        hvc     #0
        mov     x1, xzr
        .irp    n, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
        mov     x2, #(0x5a00 + \n)
        eor     x2, x2, x\n
        orr     x1, x1, x2
        .endr
        ldp     x19, x20, [sp, #16]
        ldp     x21, x22, [sp, #32]
        ldp     x23, x24, [sp, #48]
        ldp     x25, x26, [sp, #64]
        ldp     x27, x28, [sp, #80]
        ldp     x29, x30, [sp], #96
        ret

// selftest_restart — restarts softly onto a landing pad, which sees what the next kernel would see and comes back.
//   in        x0 = where to store nine words; x1, x2, x3 = SOFT_RESTART's arguments
//   assumes   EL1h, the stub at EL2
//   out       stored: x0–x4, CurrentEL, DAIF, SCTLR_EL2, SPSel at the pad
//   clobbers  as a function call
//   memory    uses the stack
        .global selftest_restart
selftest_restart:
        stp     x19, x30, [sp, #-16]!
        mov     x19, x0
        mov     x4, x3
        mov     x3, x2
        mov     x2, x1
        adr     x1, 1f
        mov     x0, #{SOFT_RESTART}
        hvc     #0
        // The stub must not come back: a state that no pad can see.
        mov     x5, xzr
        b       2f
1:      mrs     x5, CurrentEL
        mrs     x6, daif
        mrs     x7, sctlr_el2
        mrs     x8, SPSel
        adr     x9, 2f
        msr     elr_el2, x9
        mov     x9, #{SPSR_TO_EL1}
        msr     spsr_el2, x9
        eret
2:      stp     x0, x1, [x19]
        stp     x2, x3, [x19, #16]
        stp     x4, x5, [x19, #32]
        stp     x6, x7, [x19, #48]
        str     x8, [x19, #64]
        ldp     x19, x30, [sp], #16
        ret

// selftest_at_el2 — runs a routine at EL2, MMU off, and comes back.
//   in        x0 = routine, x1, x2 = its arguments
//   assumes   EL1h, the stub at EL2; the routine uses no stack and keeps x19 and up
//   out       x0, x1 = its answers
//   clobbers  as a function call
//   memory    uses the stack at EL1
        .global selftest_at_el2
selftest_at_el2:
        stp     x29, x30, [sp, #-16]!
        mov     x4, x2
        mov     x3, x1
        mov     x2, x0
        adr     x1, 1f
        mov     x0, #{SOFT_RESTART}
        hvc     #0
1:      mov     x9, x0
        mov     x0, x1
        mov     x1, x2
        blr     x9
        adr     x9, 2f
        msr     elr_el2, x9
        mov     x9, #{SPSR_TO_EL1}
        msr     spsr_el2, x9
        eret
2:      ldp     x29, x30, [sp], #16
        ret

// Routines for selftest_at_el2: x0, x1 in; x0, x1 out; clobber x0–x18.

// selftest_hvc_at_el2 — calls the stub from EL2h.
//   in        x0 = number, x1 = its first argument
//   assumes   EL2h, the stub's vectors at EL2
//   out       x0 = answer
//   clobbers  x0–x18
//   memory    touches none
        .global selftest_hvc_at_el2
selftest_hvc_at_el2:
        hvc     #0
        ret

// selftest_restart_at_el2 — restarts softly from EL2h, and lands behind the call.
//   in        nothing
//   assumes   EL2h, the stub's vectors at EL2
//   out       x0, x1 as the restart left them | x0 = 0: the call came back
//   clobbers  x0–x18
//   memory    touches none
        .global selftest_restart_at_el2
selftest_restart_at_el2:
        mov     x0, #{SOFT_RESTART}
        adr     x1, 1f
        mov     x2, #0x11
        mov     x3, #0x22
        mov     x4, #0x33
        hvc     #0
        mov     x0, xzr
1:      ret

// selftest_mmu_at_el2 — turns EL2's MMU and caches on.
//   in        x0 = TTBR0_EL2, x1 = TCR_EL2; what the tables map is of the kernel's MAIR
//   assumes   EL2h without E2H, MMU off; the tables map this code 1:1 and lie in memory past the caches  [I2]
//   out       EL2's MMU, D-cache and I-cache on
//   clobbers  x9, x10
//   memory    touches none
        .global selftest_mmu_at_el2
selftest_mmu_at_el2:
        mov     x9, #{MAIR}
        msr     mair_el2, x9
        msr     tcr_el2, x1
        msr     ttbr0_el2, x0
        // All that a table walk uses is in effect, and nothing older is left in the TLB, before the MMU is on.
        isb
        tlbi    alle2
        dsb     nsh
        isb
        mrs     x9, sctlr_el2
        mov     x10, #{SCTLR_MCI}
        orr     x9, x9, x10
        msr     sctlr_el2, x9
        // On before the next instruction is fetched.
        isb
        ret

// selftest_trap_at_el2 — lets reads of ID registers by EL1 trap to EL2.
//   in        nothing
//   assumes   EL2h
//   out       HCR_EL2.TID3 set
//   clobbers  x9
//   memory    touches none
        .global selftest_trap_at_el2
selftest_trap_at_el2:
        mrs     x9, hcr_el2
        orr     x9, x9, #{HCR_TID3}
        msr     hcr_el2, x9
        // Traps from the next instruction on.
        isb
        ret

// selftest_trapped_read — reads a trapped ID register as if it were a SOFT_RESTART to a place that tells on it.
//   in        nothing
//   assumes   EL1h; selftest_trap_at_el2 has run
//   out       x0 = 1: the trap restarted, or nothing trapped | does not return
//   clobbers  x0, x1, x9
//   memory    touches none
        .global selftest_trapped_read
selftest_trapped_read:
        adr     x1, 1f
        mov     x0, #{SOFT_RESTART}
        mrs     x9, id_aa64pfr0_el1
1:      mov     x0, #1
        ret
