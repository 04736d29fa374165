// EL2 set-up: opens EL2 for a kernel at EL1, and leaves the hyp-stub there.

        .section .text.boot, "ax"

        // The extensions whose registers are named here. The code accesses a register only if the
        // ID registers say that the CPU has it.
        .arch   armv8.7-a+sve+sme+profile+gcs

// el2_setup — opens EL2 for a kernel at EL1, leaves the hyp-stub there, and drops to EL1.
//   in        x30 = return address, physical
//   assumes   EL2h, MMU off, E2H set or clear, DAIF as it may be;
//             SP = this CPU's boot::percpu::PerCpu  [I1]
//   out       x0 = HCR_EL2, with E2H as it is in effect; at EL1h, DAIF masked, EL1's MMU and
//             caches off; VBAR_EL2 = the hyp-stub; SP_EL1 = SP_EL2 = SP on entry
//   clobbers  x9–x11, flags
//   memory    touches none
        .global el2_setup
el2_setup:
        // Mask DAIF: U-Boot leaves SError unmasked. While E2H and TGE change, an exception would be
        // taken by the routing of neither (AmpereOne erratum AC03_CPU_36: at the wrong level).
        // Rust unmasks SError, and reports what is pending then.
        msr     daifset, #{DAIF_ALL}
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

        // HCR_EL2: EL1 is AArch64, nothing is trapped, E2H is clear if this CPU can clear it.
        mov_q   x10, {HCR_NVHE}
        set_where_feature x10, {HCR_APK_API}, id_aa64isar1_el1, {APA}
        set_where_feature x10, {HCR_APK_API}, id_aa64isar1_el1, {API}
        set_where_feature x10, {HCR_APK_API}, id_aa64isar2_el1, {APA3}
        set_where_feature x10, {HCR_ATA}, id_aa64pfr1_el1, {MTE}, {MTE2}
        set_where_feature x10, {HCR_ENSCXT}, id_aa64pfr0_el1, {CSV2}, {CSV2_2}
        set_where_feature x10, {HCR_FIEN}, id_aa64pfr0_el1, {RAS}, {RAS_V1P1}
        // On some CPUs E2H is always 1. HCR_EL2 need not show that: a RES1 bit may read as written
        // (Arm ARM, Glossary), and it is UNKNOWN out of reset. So we never take its word for it.
        // A CPU without FEAT_E2H0 says so: E2H0 is negative.
        mrs     x9, id_aa64mmfr4_el1
        tbnz    x9, #{E2H0_SIGN}, .Lel2_e2h_stays
        // Some CPUs are older than that field. In a guest of a hypervisor with nested
        // virtualization, the field may read as 0 and the write of E2H be without effect. So test
        // what E2H does: only while it is 1, the name FAR_EL1 reaches FAR_EL2.
        msr     hcr_el2, x10
        msr     far_el2, xzr
        // E2H takes effect before we use the name FAR_EL1. It also selects the layout of the
        // registers below.
        isb
        msr     far_el1, x10
        // The write by one name is done before we read by the other.
        isb
        mrs     x9, far_el2
        msr     far_el1, xzr
        cbz     x9, .Lel2_e2h_known
.Lel2_e2h_stays:
        // Write the 1, so that HCR_EL2 shows what is in effect. It was in effect before, so no isb
        // is needed.
        orr     x10, x10, #{HCR_E2H}
        msr     hcr_el2, x10
.Lel2_e2h_known:
        mov     x0, x10

        // Drop the translations of the regimes that this kernel will use: EL2's under the new E2H,
        // and EL1&0's under all VMIDs, because a TLB may cache HCR_EL2's old bits with an entry.
        tlbi    alle2
        tlbi    alle1
        // All three invalidations complete before any MMU is turned on. (If a loader left EL1's MMU
        // on, its TLB may refill until we turn it off below; mmu_on invalidates once more.)
        dsb     nsh

        // CPTR_EL2, in the layout that E2H selects: EL1 may use FP, SVE and SME.
        tbnz    x0, #{HCR_E2H_BIT}, .Lel2_cptr_vhe
        mov_q   x11, {CPTR_NVHE}
        unless_feature id_aa64pfr0_el1, {SVE}, .Lel2_cptr_sme
        bic     x11, x11, #{CPTR_TZ}
.Lel2_cptr_sme:
        unless_feature id_aa64pfr1_el1, {SME}, .Lel2_cptr
        bic     x11, x11, #{CPTR_TSM}
        b       .Lel2_cptr
.Lel2_cptr_vhe:
        mov_q   x11, {CPTR_FPEN}
        set_where_feature x11, {CPTR_ZEN}, id_aa64pfr0_el1, {SVE}
        set_where_feature x11, {CPTR_SMEN}, id_aa64pfr1_el1, {SME}
.Lel2_cptr:
        msr     cptr_el2, x11
        // The traps are off before we write the vector lengths.
        isb
        // Touch FPCR first. An EL3 that traps FP traps SVE and SME as well, and the early
        // console names the broken rule by the instruction that faults.
        mrs     x9, fpcr
        unless_feature id_aa64pfr0_el1, {SVE}, .Lel2_sme
        mov     x9, #{VECTOR_LONGEST}
        msr     zcr_el2, x9
.Lel2_sme:
        unless_feature id_aa64pfr1_el1, {SME}, .Lel2_timers
        mov     x11, #{VECTOR_LONGEST}
        set_where_feature x11, {SMCR_EZT0}, id_aa64pfr1_el1, {SME}, {SME2}
        mrs     x9, id_aa64smfr0_el1
        tbz     x9, #{FA64_BIT}, .Lel2_smcr
        orr     x11, x11, #{SMCR_FA64}
.Lel2_smcr:
        msr     smcr_el2, x11
        // SMPRIMAP_EL2 exists if the CPU has streaming mode priorities.
        mrs     x9, smidr_el1
        tbz     x9, #{SMPS_BIT}, .Lel2_timers
        msr     smprimap_el2, xzr

        // Give the counter and the timer to EL1, and make virtual time equal to physical time.
.Lel2_timers:
        mov     x9, #{CNTHCTL_NVHE}
        mov     x11, #{CNTHCTL_VHE}
        tst     x0, #{HCR_E2H}
        csel    x9, x11, x9, ne
        msr     cnthctl_el2, x9
        msr     cntvoff_el2, xzr
        // Turn all timers off, whichever of them the previous kernel used. An expired one
        // would leave its interrupt pending at a GIC whose next driver uses another timer. Under
        // E2H, the names of EL1's timers reach EL2's.
        tbnz    x0, #{HCR_E2H_BIT}, .Lel2_timers_vhe
        msr     cntp_ctl_el0, xzr
        msr     cntv_ctl_el0, xzr
        b       .Lel2_own_timers
.Lel2_timers_vhe:
        msr     cntp_ctl_el02, xzr
        msr     cntv_ctl_el02, xzr
.Lel2_own_timers:
        msr     cnthp_ctl_el2, xzr
        unless_feature id_aa64mmfr1_el1, {VH}, .Lel2_ids
        msr     cnthv_ctl_el2, xzr

        // EL1 reads this CPU's own MIDR and MPIDR. No stage 2, no AArch32 traps.
.Lel2_ids:
        mrs     x9, midr_el1
        msr     vpidr_el2, x9
        mrs     x9, mpidr_el1
        msr     vmpidr_el2, x9
        msr     vttbr_el2, xzr
        msr     hstr_el2, xzr

        // MDCR_EL2: EL1 owns every event counter, and the profiling and trace buffers unless EL3
        // keeps them. PMUVer is signed: 0 is no PMU, 0xf is IMPLEMENTATION DEFINED.
        mov     x10, xzr
        mrs     x9, id_aa64dfr0_el1
        sbfx    x9, x9, #{PMUVER}, #{ID_FIELD_BITS}
        cmp     x9, #1
        b.lt    .Lel2_profiling
        mrs     x9, pmcr_el0
        ubfx    x10, x9, #{PMCR_N}, #{MDCR_HPMN_BITS}
.Lel2_profiling:
        unless_feature id_aa64dfr0_el1, {PMSVER}, .Lel2_trace
        mrs     x9, pmbidr_el1
        tbnz    x9, #{PMBIDR_P_BIT}, .Lel2_trace
        orr     x10, x10, #{MDCR_E2PB}
.Lel2_trace:
        unless_feature id_aa64dfr0_el1, {TRACE_BUFFER}, .Lel2_mdcr
        mrs     x9, trbidr_el1
        tbnz    x9, #{TRBIDR_P_BIT}, .Lel2_mdcr
        orr     x10, x10, #{MDCR_E2TB}
.Lel2_mdcr:
        msr     mdcr_el2, x10

        // Turn the GIC's system registers on, where the CPU has them and EL3 allows it.
        unless_feature id_aa64pfr0_el1, {GIC}, .Lel2_hcrx
        mrs     x9, icc_sre_el2
        mov     x10, #{ICC_SRE_ENABLE}
        orr     x9, x9, x10
        msr     icc_sre_el2, x9
        // SRE takes effect before we write ICH_HCR_EL2, which is accessible only with SRE set.
        isb
        mrs     x9, icc_sre_el2
        tbz     x9, #{ICC_SRE_BIT}, .Lel2_hcrx
        // No virtual interrupts.
        msr     ich_hcr_el2, xzr

        // HCRX_EL2: each of these bits traps when it is clear. Set those whose feature the CPU has.
.Lel2_hcrx:
        unless_feature id_aa64mmfr1_el1, {HCX}, .Lel2_fgt
        mov     x10, xzr
        set_where_feature x10, {HCRX_MSCEN}, id_aa64isar2_el1, {MOPS}
        set_where_feature x10, {HCRX_TCR2EN}, id_aa64mmfr3_el1, {TCRX}
        set_where_feature x10, {HCRX_SCTLR2EN}, id_aa64mmfr3_el1, {SCTLRX}
        set_where_feature x10, {HCRX_GCSEN}, id_aa64pfr1_el1, {GCS}
        set_where_feature x10, {HCRX_ENFPM}, id_aa64pfr2_el1, {FPMR}
        set_where_feature x10, {HCRX_D128EN}, id_aa64mmfr3_el1, {D128}
        set_where_feature x10, {HCRX_ENALS}, id_aa64isar1_el1, {LS64}
        set_where_feature x10, {HCRX_ENASR}, id_aa64isar1_el1, {LS64}, {LS64_V}
        set_where_feature x10, {HCRX_ENAS0}, id_aa64isar1_el1, {LS64}, {LS64_ACCDATA}
        msr     hcrx_el2, x10

        // Fine-grained traps: turn all of them off. A bit whose name begins with n traps when it is
        // clear, so set those that the CPU has.
.Lel2_fgt:
        unless_feature id_aa64mmfr0_el1, {FGT}, .Lel2_sctlr2
        mov     x10, xzr
        set_where_feature x10, {HFG_ACCDATA}, id_aa64isar1_el1, {LS64}, {LS64_ACCDATA}
        set_where_feature x10, {HFG_GCS}, id_aa64pfr1_el1, {GCS}
        set_where_feature x10, {HFG_SME}, id_aa64pfr1_el1, {SME}
        set_where_feature x10, {HFG_THE}, id_aa64pfr1_el1, {THE}
        set_where_feature x10, {HFG_S1PIE}, id_aa64mmfr3_el1, {S1PIE}
        set_where_feature x10, {HFG_S1POE}, id_aa64mmfr3_el1, {S1POE}
        set_where_feature x10, {HFG_AIE}, id_aa64mmfr3_el1, {AIE}
        msr     hfgrtr_el2, x10
        msr     hfgwtr_el2, x10
        mov     x10, xzr
        set_where_feature x10, {HFGI_BRBE}, id_aa64dfr0_el1, {BRBE}
        set_where_feature x10, {HFGI_GCS}, id_aa64pfr1_el1, {GCS}
        msr     hfgitr_el2, x10
        mov     x10, xzr
        set_where_feature x10, {HDFG_BRBE_READ}, id_aa64dfr0_el1, {BRBE}
        set_where_feature x10, {HDFG_PMSNEVFR}, id_aa64dfr0_el1, {PMSVER}, {SPE_V1P2}
        msr     hdfgrtr_el2, x10
        mov     x10, xzr
        set_where_feature x10, {HDFG_BRBE_WRITE}, id_aa64dfr0_el1, {BRBE}
        set_where_feature x10, {HDFG_PMSNEVFR}, id_aa64dfr0_el1, {PMSVER}, {SPE_V1P2}
        msr     hdfgwtr_el2, x10
        unless_feature id_aa64pfr0_el1, {AMU}, .Lel2_sctlr2
        msr     hafgrtr_el2, xzr

        // Clear what a VHE kernel may have left in SCTLR2_EL2.
.Lel2_sctlr2:
        unless_feature id_aa64mmfr3_el1, {SCTLRX}, .Lel2_gcs
        msr     sctlr2_el2, xzr

        // Turn EL1's and EL0's guarded control stacks off. Out of reset these registers are
        // UNKNOWN, and with PCRSEL set the first bl at EL1 would fault. Under E2H, GCSCR_EL1 is
        // reached as GCSCR_EL12.
.Lel2_gcs:
        unless_feature id_aa64pfr1_el1, {GCS}, .Lel2_leave
        msr     gcscre0_el1, xzr
        tbnz    x0, #{HCR_E2H_BIT}, .Lel2_gcs_vhe
        msr     gcscr_el1, xzr
        b       .Lel2_leave
.Lel2_gcs_vhe:
        msr     gcscr_el12, xzr

        // Drop to EL1 with its MMU off. Under E2H, SCTLR_EL1 is reached as SCTLR_EL12.
.Lel2_leave:
        mov_q   x9, {SCTLR_EL1_MMU_OFF}
        tbnz    x0, #{HCR_E2H_BIT}, .Lel2_sctlr_vhe
        msr     sctlr_el1, x9
        b       .Lel2_eret
.Lel2_sctlr_vhe:
        msr     sctlr_el12, x9
.Lel2_eret:
        mov     x9, #{SPSR_TO_EL1}
        msr     spsr_el2, x9
        msr     elr_el2, x30
        eret

        .arch   armv8-a
