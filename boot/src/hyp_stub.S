// The hyp-stub: the vectors that stay at EL2 while the kernel runs at EL1.

        .section .text.vectors, "ax"

// hyp_stub_vectors — answers HVC from EL1 and from EL2; the early console reports the rest.
//   in        x0 = number, x1–x4 = arguments (the ABI in hyp.rs)
//   assumes   EL2h, DAIF masked by the exception; EL2's MMU off, or this page mapped 1:1 and
//             executable  [I3]
//   out       x0 = result, at the caller | does not return (SOFT_RESTART; anything but a call)
//   clobbers  x0–x18, TPIDR_EL2
//   memory    touches none
        .balign 2048
        .global hyp_stub_vectors
hyp_stub_vectors:
        stub_vectors stub_call, early_exception

        .section .text.boot, "ax"

        // For the names that end in _EL12. The code uses them only with E2H set.
        .arch   armv8.1-a

stub_call:
        stub_calls early_exception
        // RESET_VECTORS: the stub's vectors are already installed, and EL2's MMU is off.
        cmp     x0, #{RESET_VECTORS}
        b.ne    1f
        mov     x0, xzr
        eret
1:      cmp     x0, #{FINALISE_EL2}
        b.eq    stub_finalise
stub_refuse:
        mov_q   x0, {STUB_ERR}
        eret

// stub_finalise — moves the kernel from EL1 to EL2 with E2H, in the map that EL1 has on.
//   in        SPSR_EL2, ELR_EL2 = the caller's
//   assumes   as hyp_stub_vectors; the caller's map holds this code 1:1, executable at the kernel's
//             level  [I2, I3]
//   out       at the caller: x0 = 0, EL2h, E2H = TGE = 1, EL2 has EL1's translation, vectors and
//             SP, TPIDR_EL2 = its TPIDR_EL1 | at the caller: x0 = STUB_ERR
//   clobbers  x9–x11
//   memory    touches none
stub_finalise:
        // Accept EL1h only. For any other caller, EL1's registers hold no kernel's state.
        mrs     x9, spsr_el2
        and     x9, x9, #{SPSR_M}
        cmp     x9, #{SPSR_EL1H}
        b.ne    stub_refuse
        // EL2's MMU must be off: a hypervisor that has it on would lose its map.
        mrs     x9, sctlr_el2
        tbnz    x9, #{SCTLR_M_BIT}, stub_refuse
        unless_feature id_aa64mmfr1_el1, {VH}, stub_refuse

        mrs     x9, hcr_el2
        mov_q   x10, {HCR_VHE}
        orr     x9, x9, x10
        // AmpereOne erratum AC04_CPU_23: a write of HCR_EL2 may corrupt the translation of a load
        // or store that is under way. The caller ran with its MMU on; the dsb completes its
        // accesses.
        dsb     nsh
        msr     hcr_el2, x9
        // E2H takes effect: from here on EL1's names reach EL2, and _EL12 names reach EL1.
        isb

        // CPTR_EL2 now has the layout of CPACR_EL1.
        mrs     x9, cpacr_el12
        msr     cpacr_el1, x9
        mrs     x9, tcr_el12
        msr     tcr_el1, x9
        mrs     x9, ttbr0_el12
        msr     ttbr0_el1, x9
        mrs     x9, ttbr1_el12
        msr     ttbr1_el1, x9
        mrs     x9, mair_el12
        msr     mair_el1, x9
        // cpu_setup cleared TCR2 (and PIE in it) and SCTLR2 at EL1; clear EL2's as well.
        unless_feature id_aa64mmfr3_el1, {TCRX}, .Lfinalise_sctlr2
        msr     tcr2_el1, xzr                   // reaching TCR2_EL2
.Lfinalise_sctlr2:
        unless_feature id_aa64mmfr3_el1, {SCTLRX}, .Lfinalise_rest
        msr     sctlr2_el1, xzr                 // reaching SCTLR2_EL2
.Lfinalise_rest:
        // SP and the per-CPU pointer have no _EL12 names.
        mrs     x9, sp_el1
        mov     sp, x9
        mrs     x9, tpidr_el1
        msr     tpidr_el2, x9
        // The profiling and trace buffers belong to the kernel's level, which is EL2 now.
        mrs     x9, mdcr_el2
        bic     x9, x9, #{MDCR_E2PB}
        bic     x9, x9, #{MDCR_E2TB}
        msr     mdcr_el2, x9
        // The timer traps, in the layout that E2H selects.
        mov     x9, #{CNTHCTL_VHE}
        msr     cnthctl_el2, x9
        // Make the ERET stay at EL2.
        mrs     x9, spsr_el2
        bic     x9, x9, #{SPSR_M}
        mov     x10, #{SPSR_EL2H}
        orr     x9, x9, x10
        msr     spsr_el2, x9

        // Turn EL1's regime off permanently. EL2 takes over the SCTLR that EL1 ran with.
        mrs     x11, sctlr_el12
        mov_q   x9, {SCTLR_EL1_MMU_OFF}
        msr     sctlr_el12, x9
        // Drop every entry of the EL2&0 regime, which a previous kernel may have used. With E2H and
        // TGE set, vmalle1 means that regime.
        tlbi    vmalle1
        dsb     nsh
        // The invalidation is complete, and every register that a table walk uses is in effect,
        // before the MMU is on.
        isb
        msr     sctlr_el1, x11                  // reaching SCTLR_EL2
        // The MMU is on before the next fetch. The I-cache needs nothing, as in mmu_on.
        isb
        // Install the kernel's vectors last: they lead to Rust, which needs the MMU.
        mrs     x9, vbar_el12
        msr     vbar_el1, x9
        mov     x0, xzr
        eret

        .arch   armv8-a
