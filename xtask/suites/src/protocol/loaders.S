// Bad loaders: each section breaks one rule of the boot protocol.
//
// loader.rs makes each section an Image of its own, followed by the kernel. x28 is the address of
// that Image, which holds at these offsets:
//
// - KERNEL_AT, in the header: the offset of the kernel;
// - TABLE: a root table that maps the first two GiB 1:1;
// - VECTORS: the section .loader.vectors;
// - FIRMWARE_VECTORS: the section .loader.firmware-vectors;
// - OTHERS: room for four 64-bit words.

        // For the names of the registers.
        .arch   armv9.4-a+sme+gcs

        // Enters the kernel at the current level.
        .macro enter
        ldr     x27, [x28, #KERNEL_AT]
        add     x27, x28, x27
        br      x27
        .endm

        // Copies x11 bytes of the device tree at x0 to x9, and points x0 to the copy.
        .macro copy_tree
        mov     x10, x0
        mov     x0, x9
1:      ldr     w12, [x10], #4
        str     w12, [x9], #4
        subs    x11, x11, #4
        b.ne    1b
        .endm

        // Prepares EL1: HCR_EL2 = x19, CNTHCTL_EL2 = x20, CPTR_EL2 = x21, MDCR_EL2 |= x22,
        // HCRX_EL2 = x23, HFGRTR_EL2 = HFGWTR_EL2 = x24. The vectors reflect every trap to EL1 as
        // UNDEFINED.
        .macro open_el1
        msr     hcr_el2, x19
        msr     cnthctl_el2, x20
        msr     cptr_el2, x21
        mrs     x9, mdcr_el2
        orr     x9, x9, x22
        msr     mdcr_el2, x9
        mrs     x9, id_aa64mmfr1_el1
        ubfx    x9, x9, #HCX, #ID_FIELD_BITS
        cbz     x9, 1f
        msr     hcrx_el2, x23
1:      mrs     x9, id_aa64mmfr0_el1
        ubfx    x9, x9, #FGT, #ID_FIELD_BITS
        cbz     x9, 1f
        msr     hfgrtr_el2, x24
        msr     hfgwtr_el2, x24
1:      msr     cntvoff_el2, xzr
        mrs     x9, midr_el1
        msr     vpidr_el2, x9
        mrs     x9, mpidr_el1
        msr     vmpidr_el2, x9
        mrs     x9, icc_sre_el2
        mov     x10, #ICC_SRE_ENABLE
        orr     x9, x9, x10
        msr     icc_sre_el2, x9
        add     x9, x28, #VECTORS
        msr     vbar_el2, x9
        ldr     x9, =SCTLR_EL1_MMU_OFF
        msr     sctlr_el1, x9
        mov     x9, #SPSR_TO_EL1
        msr     spsr_el2, x9
        .endm

        // Prepares EL1 and enters the kernel there.
        .macro enter_at_el1
        open_el1
        ldr     x27, [x28, #KERNEL_AT]
        add     x27, x28, x27
        msr     elr_el2, x27
        eret
        .ltorg
        .endm

        // Loads the values with which a correct loader opens EL1.
        .macro open_for_el1
        ldr     x19, =HCR_OPEN
        mov     x20, #CNTHCTL_OPEN
        mov     x21, #CPTR_OPEN
        mov     x22, xzr
        ldr     x23, =HCRX_OPEN
        ldr     x24, =HFG_OPEN
        .endm

        // Loads the values with which correct firmware opens EL2, x19 for SCR_EL3 and x20 for
        // CPTR_EL3, and sets the vector lengths. After QEMU's reset MDCR_EL3 traps nothing, and
        // QEMU's ICC_SRE_EL3 cannot be cleared.
        .macro open_for_el2
        ldr     x19, =SCR_OPEN
        mov     x20, #CPTR_EL3_OPEN
        msr     cptr_el3, x20
        isb
        mov     x9, #VECTOR_LONGEST
        msr     zcr_el3, x9
        ldr     x9, =SMCR_OPEN
        msr     smcr_el3, x9
        .endm

        // Enters the kernel at EL2, with SCR_EL3 = x19 and CPTR_EL3 = x20. The vectors reflect
        // every trap to the trapped level as UNDEFINED. The device tree's address comes from QEMU's
        // own boot code.
        .macro leave_el3
        msr     scr_el3, x19
        msr     cptr_el3, x20
        add     x9, x28, #FIRMWARE_VECTORS
        msr     vbar_el3, x9
        ldr     x9, =STUB_TREE
        ldr     x0, [x9]
        mov     x9, #SPSR_TO_EL2
        msr     spsr_el3, x9
        ldr     x27, [x28, #KERNEL_AT]
        add     x27, x28, x27
        msr     elr_el3, x27
        eret
        .ltorg
        .endm

        // Reflects a trap from level \to, taken to level \from, back to \to as UNDEFINED.
        .macro give_back from, to
        mrs     x9, elr_\from
        msr     elr_\to, x9
        mrs     x9, spsr_\from
        msr     spsr_\to, x9
        // ESR: EC = 0 (unknown reason), IL set.
        mov     x9, #ESR_IL
        msr     esr_\to, x9
        mrs     x9, vbar_\to
        add     x9, x9, #0x200
        msr     elr_\from, x9
        .endm

        .section .loader.good, "ax"
        enter

        .section .loader.good-el1, "ax"
        open_for_el1
        enter_at_el1

        .section .loader.x1, "ax"
        mov     x1, #1
        enter

        .section .loader.x2, "ax"
        mov     x2, #1
        enter

        .section .loader.x3, "ax"
        mov     x3, #1
        enter

        .section .loader.serror, "ax"
        msr     daifclr, #DAIF_A
        enter

        .section .loader.mmu, "ax"
        add     x9, x28, #TABLE
        msr     ttbr0_el1, x9
        mov     x9, #MAIR
        msr     mair_el1, x9
        ldr     x9, =TCR_39_BITS
        msr     tcr_el1, x9
        isb
        tlbi    vmalle1
        dsb     sy
        mrs     x9, sctlr_el1
        orr     x9, x9, #SCTLR_M
        msr     sctlr_el1, x9
        isb
        enter
        .ltorg

        .section .loader.dcache, "ax"
        mrs     x9, sctlr_el1
        orr     x9, x9, #SCTLR_C
        msr     sctlr_el1, x9
        isb
        enter

        .section .loader.no-dtb, "ax"
        add     x0, x28, #NOTHING
        enter

        .section .loader.dtb-unaligned, "ax"
        add     x9, x28, #NOTHING
        add     x9, x9, #4
        mov     x11, #0x10000
        copy_tree
        enter

        .section .loader.dtb-size, "ax"
        // Big-endian: 2 MiB and eight bytes.
        movz    w9, #0x2000
        movk    w9, #0x0800, lsl #16
        str     w9, [x0, #4]
        enter

        .section .loader.dtb-inside, "ax"
        // The copy starts in the stack at the end of the Image.
        ldr     x27, [x28, #KERNEL_AT]
        add     x27, x28, x27
        ldr     x9, [x27, #IMAGE_SIZE_AT]
        add     x9, x27, x9
        sub     x9, x9, #0x8000
        mov     x11, #0x10000
        copy_tree
        enter

        .section .loader.dtb-reaching-in, "ax"
        // The copy starts a page below the Image. One page suffices to look like a device tree.
        ldr     x27, [x28, #KERNEL_AT]
        add     x27, x28, x27
        sub     x9, x27, #0x1000
        mov     x11, #0x1000
        copy_tree
        enter

        .section .loader.device, "ax"
        // The Status of the device in the last slot: ACKNOWLEDGE, DRIVER, DRIVER_OK.
        ldr     x9, =LAST_SLOT_STATUS
        mov     w10, #7
        str     w10, [x9]
        enter
        .ltorg

        .section .loader.bus-master, "ax"
        ldr     x9, =FIRST_FUNCTION_COMMAND
        ldrh    w10, [x9]
        orr     w10, w10, #PCI_BUS_MASTER
        strh    w10, [x9]
        enter
        .ltorg

        .section .loader.cntfrq, "ax"
        mrs     x9, cntfrq_el0
        add     x9, x9, #1
        msr     cntfrq_el0, x9
        enter

        .section .loader.cntvoff, "ax"
        mov     x9, #0x10000
        msr     cntvoff_el2, x9
        enter

        .section .loader.trap-counter, "ax"
        open_for_el1
        mov     x20, #CNTHCTL_EL1PCEN
        enter_at_el1

        .section .loader.trap-keys, "ax"
        open_for_el1
        bic     x19, x19, #HCR_APK
        enter_at_el1

        .section .loader.trap-codes, "ax"
        open_for_el1
        bic     x19, x19, #HCR_API
        enter_at_el1

        .section .loader.trap-tags, "ax"
        open_for_el1
        bic     x19, x19, #HCR_ATA
        enter_at_el1

        .section .loader.trap-sve, "ax"
        open_for_el1
        orr     x21, x21, #CPTR_TZ
        enter_at_el1

        .section .loader.trap-sme, "ax"
        open_for_el1
        orr     x21, x21, #CPTR_TSM
        enter_at_el1

        .section .loader.trap-pmu, "ax"
        open_for_el1
        mov     x22, #MDCR_TPM
        enter_at_el1

        .section .loader.trap-debug, "ax"
        open_for_el1
        mov     x22, #MDCR_TDA
        enter_at_el1

        .section .loader.trap-fp, "ax"
        open_for_el1
        orr     x21, x21, #CPTR_TFP
        enter_at_el1

        .section .loader.trap-gic, "ax"
        open_for_el1
        mov     x9, #ICH_HCR_TRAPS
        msr     ich_hcr_el2, x9
        enter_at_el1

        .section .loader.trap-copies, "ax"
        open_for_el1
        bic     x23, x23, #HCRX_MSCEN
        enter_at_el1

        .section .loader.trap-tcr2, "ax"
        open_for_el1
        bic     x23, x23, #HCRX_TCR2EN
        enter_at_el1

        .section .loader.trap-permissions, "ax"
        open_for_el1
        ldr     x9, =HFG_S1PIE
        bic     x24, x24, x9
        enter_at_el1

        .section .loader.trap-control-stacks, "ax"
        open_for_el1
        ldr     x9, =HFG_GCS
        bic     x24, x24, x9
        enter_at_el1

        .section .loader.firmware, "ax"
        open_for_el2
        leave_el3

        .section .loader.firmware-stays, "ax"
        // Enters the kernel at EL3.
        enter

        .section .loader.firmware-hvc, "ax"
        open_for_el2
        bic     x19, x19, #SCR_HCE
        leave_el3

        .section .loader.firmware-fp, "ax"
        open_for_el2
        orr     x20, x20, #CPTR_TFP
        leave_el3

        .section .loader.firmware-hcx, "ax"
        open_for_el2
        ldr     x9, =SCR_HXEN
        bic     x19, x19, x9
        leave_el3

        .section .loader.firmware-fgt, "ax"
        open_for_el2
        bic     x19, x19, #SCR_FGTEN
        leave_el3

        .section .loader.firmware-fgt2, "ax"
        open_for_el2
        ldr     x9, =SCR_FGTEN2
        bic     x19, x19, x9
        leave_el3

        .section .loader.firmware-thread-pointer, "ax"
        open_for_el2
        ldr     x9, =SCR_ENTP2
        bic     x19, x19, x9
        leave_el3

        .section .loader.trap-priorities, "ax"
        open_for_el1
        ldr     x9, =HFG_SMPRI
        bic     x24, x24, x9
        enter_at_el1

        .section .loader.control-stacks, "ax"
        mrs     x9, id_aa64pfr1_el1
        ubfx    x9, x9, #GCS, #ID_FIELD_BITS
        cbz     x9, 1f
        // GCSCR_EL1 with PCRSEL clear: control stacks stay off. RVCHKEN alone breaks the rule.
        mov     x9, #GCSCR_RVCHKEN
        msr     gcscr_el1, x9
1:      enter

        // Routes secondaries through this loader, which traps PSCI calls from EL1 and starts each
        // secondary with SCTLR_EL1 = x25 and PSTATE = x26.
        .macro others_by
        add     x9, x28, #OTHERS
        stp     x25, x26, [x9]
        orr     x19, x19, #HCR_TSC
        .endm

        .section .loader.others-dcache, "ax"
        open_for_el1
        ldr     x25, =SCTLR_EL1_MMU_OFF + SCTLR_C
        mov     x26, #SPSR_TO_EL1
        others_by
        enter_at_el1

        .section .loader.others-serror, "ax"
        open_for_el1
        ldr     x25, =SCTLR_EL1_MMU_OFF
        mov     x26, #(SPSR_TO_EL1 & ~SPSR_A)
        others_by
        enter_at_el1

        // EL2's vectors. A trap from EL1 is reflected as UNDEFINED; a trapped CPU_ON starts the CPU
        // at `other` first. Only the slot for synchronous exceptions from a lower level is used.
        .section .loader.vectors, "ax"
vectors:
        .skip   0x400
        msr     tpidr_el2, x9
        mrs     x9, esr_el2
        lsr     x9, x9, #EC_SHIFT
        cmp     x9, #EC_SMC64
        b.eq    1f
        give_back el2, el1
        mov     x9, #SPSR_TO_EL1
        msr     spsr_el2, x9
        mrs     x9, tpidr_el2
        eret
1:      mrs     x9, elr_el2
        add     x9, x9, #4
        msr     elr_el2, x9
        ldr     w9, =CPU_ON
        cmp     w0, w9
        b.ne    2f
        // Keep the entry point and the context ID of this CPU_ON.
        adr     x9, vectors
        add     x9, x9, #(OTHERS - VECTORS)
        stp     x2, x3, [x9, #16]
        adr     x2, other
2:      mrs     x9, tpidr_el2
        smc     #0
        eret
        .ltorg
other:
        adr     x28, vectors
        sub     x28, x28, #VECTORS
        open_for_el1
        open_el1
        add     x9, x28, #OTHERS
        ldp     x10, x11, [x9]
        msr     sctlr_el1, x10
        msr     spsr_el2, x11
        ldp     x10, x0, [x9, #16]
        msr     elr_el2, x10
        eret
        .ltorg

        // EL3's vectors. A trap from EL2 or EL1 is reflected as UNDEFINED.
        .section .loader.firmware-vectors, "ax"
        .skip   0x400
        msr     tpidr_el3, x9
        mrs     x9, spsr_el3
        tbnz    x9, #SPSR_AT_EL2_BIT, 1f
        give_back el3, el1
        mov     x9, #SPSR_TO_EL1
        b       2f
1:      give_back el3, el2
        mov     x9, #SPSR_TO_EL2
2:      msr     spsr_el3, x9
        mrs     x9, tpidr_el3
        eret
