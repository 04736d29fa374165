// Probes: one access each, and the way back when it is trapped.

        .section .text, "ax"

// probe_try — makes the access of a number.
//   in        x0 = number, below the count of probes
//   assumes   EL1h or EL2h with E2H, exceptions go to exception_vectors
//   out       x0 = 0, or 1 where it was trapped
//   clobbers  x1–x4, flags
//   memory    touches none
        .global probe_try
probe_try:
        // Our own level does not trap what is tried.
        mrs     x3, cpacr_el1
        mov     x1, #{CPACR_ALL}
        orr     x1, x1, x3
        msr     cpacr_el1, x1
        // In effect before the probe.
        isb
        mov     x4, x30
        adrp    x1, probes
        add     x1, x1, :lo12:probes
        add     x1, x1, x0, lsl #{PROBE_SHIFT}
        mov     x0, xzr
        mov     x2, xzr
        blr     x1
        msr     cpacr_el1, x3
        isb
        ret     x4

        // All by their names, which the assembler holds to be right; whether the CPU has them is asked before.
        .arch   armv9.5-a+gcs+mops+brbe+sme2+memtag

// probes — is a table of accesses, by the numbers of kernel::protocol.
//   in        nothing
//   assumes   the CPU has what is accessed
//   out       x0 as it was, or 1 where it was trapped
//   clobbers  x1, x2, flags
//   memory    touches none
        .global probes
probes:
        mrs     x1, cntpct_el0                  // the counter
        ret
        mrs     x1, fpcr                        // FP and SIMD
        ret
        mrs     x1, apiakeylo_el1
        ret
        pacga   x1, x1, x1
        ret
        mrs     x1, zcr_el1
        ret
        mrs     x1, smcr_el1
        ret
        mrs     x1, gcr_el1
        ret
        mrs     x1, amcr_el0
        ret
        mrs     x1, brbcr_el1
        ret
        setp    [x1]!, x2!, xzr                 // no bytes
        ret
        mrs     x1, tcr2_el1
        ret
        mrs     x1, pir_el1
        ret
        mrs     x1, gcscr_el1
        ret
        mrs     x1, pmcr_el0
        ret
        mrs     x1, mdscr_el1
        ret
        mrs     x1, hfgrtr2_el2                 // FGT2, at EL2 alone
        ret
        mrs     x1, tpidr2_el0                  // SME
        ret
        mrs     x1, smpri_el1
        ret
        mrs     x1, pmuacr_el1                  // PMUv3p9
        ret

        .arch   armv8-a

// probe_go_on — returns from the exception that a probe's instruction raised, to the one behind it.
//   in        x0 = its boot::vectors::Frame
//   assumes   the exception's level and stack
//   out       does not return; behind the instruction: x0 = 1, x1–x4 and what a callee keeps as they were, the rest as the handler left it
//   clobbers  TPIDR_EL0, TPIDRRO_EL0
//   memory    reads the frame
        .global probe_go_on
probe_go_on:
        ldr     x1, [x0, #{ELR}]
        add     x1, x1, #4
        msr     elr_el1, x1
        ldr     x1, [x0, #{SPSR}]
        msr     spsr_el1, x1
        ldr     x1, [x0, #{SP}]
        mov     sp, x1
        ldp     x1, x2, [x0, #8]
        ldp     x3, x4, [x0, #24]
        ldp     x19, x20, [x0, #152]
        ldp     x21, x22, [x0, #168]
        ldp     x23, x24, [x0, #184]
        ldp     x25, x26, [x0, #200]
        ldp     x27, x28, [x0, #216]
        ldp     x29, x30, [x0, #232]
        mov     x0, #1
        eret
