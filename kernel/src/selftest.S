// EL2 half of the hyp-stub's conformance suite: it records the state that EL2 code sees.
//
// All state returns in registers: EL2's MMU is off here, so EL2 must not write memory that EL1 may
// have in its cache.

        .section .text, "ax"

// selftest_call — calls the stub with a pattern in every register that it must preserve.
//   in        x0 = function number, x1–x4 = arguments
//   assumes   EL1h or EL2h, the stub's vectors at EL2
//   out       x0 = result; x1 = 0 if x19–x30 were preserved
//   clobbers  as a function call, TPIDR_EL2
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

// selftest_restart — calls SOFT_RESTART to a landing pad, which records its state and returns.
//   in        x0 = address for nine words of results; x1, x2, x3 = SOFT_RESTART's arguments
//   assumes   EL1h, the stub at EL2
//   out       stored: x0–x4, CurrentEL, DAIF, SCTLR_EL2, SPSel at the pad
//   clobbers  as a function call, TPIDR_EL2
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
        // The stub must not return here. Store CurrentEL = 0, which no pad can read.
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

// selftest_at_el2 — runs a routine at EL2 with the MMU off, and returns to EL1.
//   in        x0 = routine, x1, x2 = its arguments
//   assumes   EL1h, the stub at EL2; the routine uses no stack and preserves x19 and up
//   out       x0, x1 = the routine's results
//   clobbers  as a function call, TPIDR_EL2
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

// Routines for selftest_at_el2: arguments and results in x0 and x1, clobber x0–x18.

// selftest_hvc_at_el2 — calls the stub from EL2h.
//   in        x0 = function number, x1 = its first argument
//   assumes   EL2h, the stub's vectors at EL2
//   out       x0 = result
//   clobbers  as hyp_stub_vectors
//   memory    touches none
        .global selftest_hvc_at_el2
selftest_hvc_at_el2:
        hvc     #0
        ret

// selftest_restart_at_el2 — calls SOFT_RESTART from EL2h, to the instruction after the call.
//   in        nothing
//   assumes   EL2h, the stub's vectors at EL2
//   out       x0, x1 = what the restart left there | x0 = 0 if the call returned
//   clobbers  as hyp_stub_vectors
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
//   in        x0 = TTBR0_EL2, x1 = TCR_EL2; the tables' attributes refer to the kernel's MAIR
//   assumes   EL2h without E2H, MMU off; the tables map this code 1:1 and are clean to PoC  [I2]
//   out       EL2's MMU, D-cache and I-cache on
//   clobbers  x9, x10
//   memory    touches none
        .global selftest_mmu_at_el2
selftest_mmu_at_el2:
        mov     x9, #{MAIR}
        msr     mair_el2, x9
        msr     tcr_el2, x1
        msr     ttbr0_el2, x0
        // First ISB: MAIR, TCR and TTBR0 take effect before the TLBI and before the MMU is enabled.
        // TLBI, DSB, second ISB: the TLB holds no older EL2 translation when the MMU is enabled.
        isb
        tlbi    alle2
        dsb     nsh
        isb
        mrs     x9, sctlr_el2
        mov     x10, #{SCTLR_MCI}
        orr     x9, x9, x10
        msr     sctlr_el2, x9
        // ISB: the next instruction is fetched with the MMU on.
        isb
        ret

// selftest_trap_at_el2 — traps EL1's reads of ID registers to EL2.
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
        // ISB: the trap is in effect before this routine returns.
        isb
        ret

// selftest_trapped_read — reads a trapped ID register with SOFT_RESTART's arguments in x0 and x1.
//   in        nothing
//   assumes   EL1h; selftest_trap_at_el2 has run
//   out       x0 = 1 if the stub took the trap for a restart, or nothing trapped | does not return
//   clobbers  x0, x1, x9
//   memory    touches none
        .global selftest_trapped_read
selftest_trapped_read:
        adr     x1, 1f
        mov     x0, #{SOFT_RESTART}
        mrs     x9, id_aa64pfr0_el1
1:      mov     x0, #1
        ret
