// EL2 set-up: opens EL2 for a kernel at EL1, and leaves the hyp-stub there.

        .section .text.boot, "ax"

// el2_setup — opens EL2 for a kernel at EL1, leaves the hyp-stub there, and drops to EL1.
//   in        x30 = return address, physical
//   assumes   EL2h, MMU off, E2H set or clear; DAIF masked; SP = this CPU's boot::percpu::Own  [I1]
//   out       x0 = HCR_EL2 as it took effect; at EL1h, DAIF masked, EL1's MMU and caches off;
//             VBAR_EL2 = the hyp-stub; SP_EL1 = SP_EL2 = SP on entry
//   clobbers  x9–x11, flags
//   memory    touches none
        .global el2_setup
el2_setup:
        // Install the stub's vectors first: they print any exception that we take in here.
        adr_l   x9, hyp_stub_vectors
        msr     vbar_el2, x9
        // Until EL1 has a stack, its early console saves registers in the same frame.
        mov     x9, sp
        msr     sp_el1, x9

        // Turn the MMU off before we touch E2H: under E2H, SCTLR_EL2 has another layout.
        mov_q   x9, {SCTLR_EL2_MMU_OFF}
        msr     sctlr_el2, x9
        isb

        // Drop what the previous kernel's EL2 left in the TLB, while E2H still has the value that
        // it ran with: once E2H changes, this TLBI names another regime. It needs no barrier: a
        // write to HCR_EL2 does not affect earlier instructions (Arm ARM D24.1.2), and the dsb
        // below waits for this TLBI too.
        tlbi    alle2

        // HCR_EL2: EL1 is AArch64, nothing is trapped, E2H is clear.
        mov_q   x10, {HCR_NVHE}
        set_where_feature x10, {HCR_APK_API}, id_aa64isar1_el1, 4, 1      // APA
        set_where_feature x10, {HCR_APK_API}, id_aa64isar1_el1, 8, 1      // API
        set_where_feature x10, {HCR_APK_API}, s3_0_c0_c6_2, 12, 1         // ID_AA64ISAR2_EL1.APA3
        set_where_feature x10, {HCR_ATA}, id_aa64pfr1_el1, 8, 2           // MTE: MTE2
        set_where_feature x10, {HCR_ENSCXT}, id_aa64pfr0_el1, 56, 2       // CSV2: CSV2_2
        set_where_feature x10, {HCR_FIEN}, id_aa64pfr0_el1, 28, 2         // RAS: RASv1p1
        msr     hcr_el2, x10
        // E2H selects the layout of the registers below: it takes effect before we write them.
        isb
        // Read HCR_EL2 back. On some CPUs E2H is always 1, and not all of them say so in
        // ID_AA64MMFR4_EL1.E2H0.
        mrs     x0, hcr_el2

        // Drop the translations of the regimes that this kernel will use: EL2's under the new E2H,
        // and EL1&0's under all VMIDs, because a TLB may cache HCR_EL2's old bits with an entry.
        tlbi    alle2
        tlbi    alle1
        // All three invalidations complete before any MMU is turned on. (If a loader left EL1's MMU
        // on, its TLB may refill until we turn it off below; mmu_on invalidates once more.)
        dsb     nsh

        // CPTR_EL2, in the layout that E2H selects: EL1 may use FP, SVE and SME.
        tbnz    x0, #{HCR_E2H_BIT}, 2f
        mov_q   x11, {CPTR_NVHE}
        unless_feature id_aa64pfr0_el1, 32, 1, 1f                         // SVE
        bic     x11, x11, #{CPTR_TZ}
1:      unless_feature id_aa64pfr1_el1, 24, 1, 3f                         // SME
        bic     x11, x11, #{CPTR_TSM}
        b       3f
2:      mov_q   x11, {CPTR_FPEN}
        set_where_feature x11, {CPTR_ZEN}, id_aa64pfr0_el1, 32, 1         // SVE
        set_where_feature x11, {CPTR_SMEN}, id_aa64pfr1_el1, 24, 1        // SME
3:      msr     cptr_el2, x11
        // The traps are off before we write the vector lengths.
        isb
        // Touch FPCR first. An EL3 that traps FP traps SVE and SME as well, and the early
        // console names the broken rule by the instruction that faults.
        mrs     x9, fpcr
        unless_feature id_aa64pfr0_el1, 32, 1, 1f                         // SVE
        mov     x9, #{VECTOR_LONGEST}
        msr     s3_4_c1_c2_0, x9                // ZCR_EL2
1:      unless_feature id_aa64pfr1_el1, 24, 1, 2f                         // SME
        mov     x11, #{VECTOR_LONGEST}
        set_where_feature x11, {SMCR_EZT0}, id_aa64pfr1_el1, 24, 2        // SME: SME2
        mrs     x9, s3_0_c0_c4_5                // ID_AA64SMFR0_EL1
        tbz     x9, #63, 1f                     // FA64
        orr     x11, x11, #{SMCR_FA64}
1:      msr     s3_4_c1_c2_6, x11               // SMCR_EL2
        mrs     x9, s3_1_c0_c0_6                // SMIDR_EL1.SMPS: priorities
        tbz     x9, #15, 2f
        msr     s3_4_c1_c2_5, xzr               // SMPRIMAP_EL2

        // Give the counter and the timer to EL1, and make virtual time equal to physical time.
2:      mov     x9, #{CNTHCTL_NVHE}
        mov     x11, #{CNTHCTL_VHE}
        tst     x0, #{HCR_E2H}
        csel    x9, x11, x9, ne
        msr     cnthctl_el2, x9
        msr     cntvoff_el2, xzr
        // Turn all timers off, whichever of them the previous kernel ticked by. An expired one
        // would leave its interrupt pending at a GIC whose next driver uses another timer. Under
        // E2H, the names of EL1's timers reach EL2's.
        tbnz    x0, #{HCR_E2H_BIT}, 1f
        msr     cntp_ctl_el0, xzr
        msr     cntv_ctl_el0, xzr
        b       2f
1:      msr     s3_5_c14_c2_1, xzr              // CNTP_CTL_EL02
        msr     s3_5_c14_c3_1, xzr              // CNTV_CTL_EL02
2:      msr     cnthp_ctl_el2, xzr
        unless_feature id_aa64mmfr1_el1, 8, 1, 3f                         // VH
        msr     s3_4_c14_c3_1, xzr              // CNTHV_CTL_EL2

        // EL1 reads this CPU's own MIDR and MPIDR. No stage 2, no AArch32 traps.
3:      mrs     x9, midr_el1
        msr     vpidr_el2, x9
        mrs     x9, mpidr_el1
        msr     vmpidr_el2, x9
        msr     vttbr_el2, xzr
        msr     hstr_el2, xzr

        // MDCR_EL2: EL1 owns every event counter, and the profiling and trace buffers unless EL3
        // keeps them.
        mov     x10, xzr
        mrs     x9, id_aa64dfr0_el1
        sbfx    x9, x9, #8, #4                  // PMUVer: 0 none, 0xf IMPLEMENTATION DEFINED
        cmp     x9, #1
        b.lt    1f
        mrs     x9, pmcr_el0
        ubfx    x10, x9, #11, #{MDCR_HPMN_BITS}  // PMCR_EL0.N
1:      unless_feature id_aa64dfr0_el1, 32, 1, 2f                         // PMSVer
        mrs     x9, s3_0_c9_c10_7               // PMBIDR_EL1.P
        tbnz    x9, #4, 2f
        orr     x10, x10, #{MDCR_E2PB}
2:      unless_feature id_aa64dfr0_el1, 44, 1, 3f                         // TraceBuffer
        mrs     x9, s3_0_c9_c11_7               // TRBIDR_EL1.P
        tbnz    x9, #4, 3f
        orr     x10, x10, #{MDCR_E2TB}
3:      msr     mdcr_el2, x10

        // Turn the GIC's system registers on, where the CPU has them and EL3 allows it.
        unless_feature id_aa64pfr0_el1, 24, 1, 4f                         // GIC
        mrs     x9, s3_4_c12_c9_5               // ICC_SRE_EL2
        mov     x10, #{ICC_SRE_ENABLE}
        orr     x9, x9, x10
        msr     s3_4_c12_c9_5, x9
        // SRE takes effect before we write ICH_HCR_EL2, which is accessible only with SRE set.
        isb
        mrs     x9, s3_4_c12_c9_5
        tbz     x9, #0, 4f                      // SRE
        msr     s3_4_c12_c11_0, xzr             // ICH_HCR_EL2: no virtual interrupts

        // HCRX_EL2: each of these bits traps when it is clear. Set those whose feature the CPU has.
4:      unless_feature id_aa64mmfr1_el1, 40, 1, 5f                        // HCX
        mov     x10, xzr
        set_where_feature x10, {HCRX_MSCEN}, s3_0_c0_c6_2, 16, 1          // ID_AA64ISAR2_EL1.MOPS
        set_where_feature x10, {HCRX_TCR2EN}, s3_0_c0_c7_3, 0, 1          // ID_AA64MMFR3_EL1.TCRX
        set_where_feature x10, {HCRX_SCTLR2EN}, s3_0_c0_c7_3, 4, 1        // ID_AA64MMFR3_EL1.SCTLRX
        set_where_feature x10, {HCRX_GCSEN}, id_aa64pfr1_el1, 44, 1       // GCS
        set_where_feature x10, {HCRX_ENFPM}, s3_0_c0_c4_2, 32, 1          // ID_AA64PFR2_EL1.FPMR
        set_where_feature x10, {HCRX_D128EN}, s3_0_c0_c7_3, 32, 1         // ID_AA64MMFR3_EL1.D128
        set_where_feature x10, {HCRX_ENALS}, id_aa64isar1_el1, 60, 1      // LS64
        set_where_feature x10, {HCRX_ENASR}, id_aa64isar1_el1, 60, 2      // LS64: LS64_V
        set_where_feature x10, {HCRX_ENAS0}, id_aa64isar1_el1, 60, 3      // LS64: LS64_ACCDATA
        msr     s3_4_c1_c2_2, x10

        // Fine-grained traps: turn all of them off. A bit whose name begins with n traps when it is
        // clear, so set those that the CPU has.
5:      unless_feature id_aa64mmfr0_el1, 56, 1, 6f                        // FGT
        mov     x10, xzr
        set_where_feature x10, {HFG_ACCDATA}, id_aa64isar1_el1, 60, 3     // LS64: LS64_ACCDATA
        set_where_feature x10, {HFG_GCS}, id_aa64pfr1_el1, 44, 1          // GCS
        set_where_feature x10, {HFG_SME}, id_aa64pfr1_el1, 24, 1          // SME
        set_where_feature x10, {HFG_THE}, id_aa64pfr1_el1, 48, 1          // THE
        set_where_feature x10, {HFG_S1PIE}, s3_0_c0_c7_3, 8, 1            // ID_AA64MMFR3_EL1.S1PIE
        set_where_feature x10, {HFG_S1POE}, s3_0_c0_c7_3, 16, 1           // ID_AA64MMFR3_EL1.S1POE
        set_where_feature x10, {HFG_AIE}, s3_0_c0_c7_3, 24, 1             // ID_AA64MMFR3_EL1.AIE
        msr     s3_4_c1_c1_4, x10               // HFGRTR_EL2
        msr     s3_4_c1_c1_5, x10               // HFGWTR_EL2
        mov     x10, xzr
        set_where_feature x10, {HFGI_BRBE}, id_aa64dfr0_el1, 52, 1        // BRBE
        set_where_feature x10, {HFGI_GCS}, id_aa64pfr1_el1, 44, 1         // GCS
        msr     s3_4_c1_c1_6, x10               // HFGITR_EL2
        mov     x10, xzr
        set_where_feature x10, {HDFG_BRBE_READ}, id_aa64dfr0_el1, 52, 1   // BRBE
        set_where_feature x10, {HDFG_PMSNEVFR}, id_aa64dfr0_el1, 32, 3    // PMSVer: SPEv1p2
        msr     s3_4_c3_c1_4, x10               // HDFGRTR_EL2
        mov     x10, xzr
        set_where_feature x10, {HDFG_BRBE_WRITE}, id_aa64dfr0_el1, 52, 1  // BRBE
        set_where_feature x10, {HDFG_PMSNEVFR}, id_aa64dfr0_el1, 32, 3    // PMSVer: SPEv1p2
        msr     s3_4_c3_c1_5, x10               // HDFGWTR_EL2
        unless_feature id_aa64pfr0_el1, 44, 1, 6f                         // AMU
        msr     s3_4_c3_c1_6, xzr               // HAFGRTR_EL2

        // Clear what a VHE kernel may have left in SCTLR2_EL2 and in MPAM: no traps, no partitions.
6:      unless_feature s3_0_c0_c7_3, 4, 1, 1f   // ID_AA64MMFR3_EL1.SCTLRX
        msr     s3_4_c1_c0_3, xzr               // SCTLR2_EL2
1:      unless_feature id_aa64pfr0_el1, 40, 1, 2f                         // MPAM
        msr     s3_4_c10_c5_0, xzr              // MPAM2_EL2
        mrs     x9, s3_0_c10_c4_4               // MPAMIDR_EL1.HAS_HCR
        tbz     x9, #17, 2f
        msr     s3_4_c10_c4_0, xzr              // MPAMHCR_EL2

        // Return to EL1 with its MMU off. Under E2H, SCTLR_EL1 is reached as SCTLR_EL12.
2:      mov_q   x9, {SCTLR_EL1_MMU_OFF}
        tbnz    x0, #{HCR_E2H_BIT}, 7f
        msr     sctlr_el1, x9
        b       8f
7:      msr     s3_5_c1_c0_0, x9                // SCTLR_EL12
8:      mov     x9, #{SPSR_TO_EL1}
        msr     spsr_el2, x9
        msr     elr_el2, x30
        eret
