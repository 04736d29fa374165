// Probes: one access each, and the return from the exception if the access is trapped.

        .section .text, "ax"

// probe_try — performs the access with a given number.
//   in        x0 = number, below the count of probes
//   assumes   EL1h or EL2h with E2H, exceptions go to exception_vectors
//   out       x0 = 0 if the access succeeded, 1 if it was trapped
//   clobbers  x1–x4, x30, flags
//   memory    touches none
        .global probe_try
probe_try:
        // Open CPACR, so that only a higher level can trap the access.
        mrs     x3, cpacr_el1
        mov     x1, #{CPACR_ALL}
        orr     x1, x1, x3
        msr     cpacr_el1, x1
        // ISB: the CPACR write takes effect before the probe.
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

        // Register names, not encodings: the assembler checks them. The caller makes sure that the
        // CPU has the registers.
        .arch   armv9.5-a+gcs+mops+brbe+sme2+memtag

// probes — holds the accesses, one per slot, in the order of kernel::protocol's numbers.
//   in        x0 = 0; x2 = 0, the size for setp
//   assumes   the CPU has the accessed feature
//   out       x0 = 0 if the access succeeded, 1 if it was trapped
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
        setp    [x1]!, x2!, xzr                 // size 0: writes no bytes
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
        mrs     x1, hfgrtr2_el2                 // FGT2, only at EL2
        ret
        mrs     x1, tpidr2_el0                  // SME
        ret
        mrs     x1, smpri_el1
        ret
        mrs     x1, pmuacr_el1                  // PMUv3p9
        ret

        .arch   armv8-a

// probe_resume — returns from a probe's exception to the instruction after the trapped one.
//   in        x0 = the exception's boot::vectors::Frame
//   assumes   the level and stack of the exception
//   out       does not return; at the next instruction: x0 = 1; x1–x4, x19–x30, flags = as they
//             were, and so is SP; all others as the handler left them
//   clobbers  none
//   memory    reads the frame
        .global probe_resume
probe_resume:
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
